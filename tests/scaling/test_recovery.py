"""The alignment force from checkpoints: splines against scipy, the force against what a real AdamW run did, and the table."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from weibull_monitor.cli.main import main
from weibull_monitor.scaling.recovery import recovered_alignment, slopes

REFERENCE = Path(os.environ.get("WEIBULL_REFERENCE", "")) / "published_layers.csv.gz"


def test_slopes_are_those_of_scipy() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    x = np.array([0.0, 1.0, 2.5, 7.0, 8.0, 20.0])
    y = np.stack([np.sin(x), x**2, np.cos(3 * x)], axis=1)
    expected = interpolate.CubicSpline(x, y, bc_type="natural")(x, 1)
    assert slopes(x, y) == pytest.approx(expected)
    assert slopes(x, y[:, 0]) == pytest.approx(expected[:, 0])


def test_too_few_checkpoints() -> None:
    with pytest.raises(ValueError, match="too few"):
        recovered_alignment([1, 2, 3], np.ones(3), [0.1] * 3, 0.1)


def test_alignment_of_a_real_run() -> None:
    """Logistic regression on random data with AdamW: the forces of every step, and what 11 checkpoints of 201 recover."""
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(64, 64) * 0.1)
    x, target = torch.randn(256, 64), torch.randint(0, 64, (256,))
    eta, decay = 2e-3, 0.1
    optimizer = torch.optim.AdamW([w], lr=eta, weight_decay=decay)
    norms, forces = [float(w.detach().square().sum())], []
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(x @ w.T, target).backward()
        before = w.detach().clone()
        optimizer.step()
        step = w.detach() - before * (1 - eta * decay)  # -ηu
        forces.append(float(2 * (before * step).sum() + step.square().sum()) / norms[-1])
        norms.append(float(w.detach().square().sum()))
    steps = list(range(0, 201, 20))
    found = recovered_alignment(steps, np.sqrt([norms[s] for s in steps]), [eta] * len(steps), decay)
    smooth = [float(np.mean(forces[max(0, s - 3) : s + 3])) for s in steps]
    assert found[2:-1] == pytest.approx(
        smooth[2:-1], rel=0.05
    )  # the first steps change faster than a curve of 20 follows


@pytest.mark.skipif(not REFERENCE.is_file(), reason="WEIBULL_REFERENCE names no folder with published_layers.csv.gz")
@pytest.mark.parametrize("gap", [250, 500])
def test_alignment_of_published_runs(gap: int) -> None:
    """The share that docs/scaling.md states, over the matrices of each run together."""
    runs: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    columns = ("step", "rms", "alignment", "injection", "decay", "eta_peak", "weight_decay")
    with gzip.open(REFERENCE, "rt") as file:
        for row in csv.DictReader(file):
            runs[row["run"]][row["matrix"]].append([float(row[c]) for c in columns])
    shares = [_share(list(matrices.values()), gap) for matrices in runs.values()]
    assert len(shares) > 20
    assert 0.935 < float(np.median(shares)) < 0.96
    assert float(np.quantile(shares, 0.05)) > 0.90


def _share(matrices: list[list[list[float]]], gap: int) -> float:
    """1 minus the absolute error over the absolute alignment, both summed over steps from 500 on."""
    total_found, total_true = 0.0, 0.0
    for rows in matrices:
        a = np.array(sorted(rows))
        step, rms = a[:, 0], a[:, 1]
        eta_of = np.array([_eta(s, a[0, 5]) for s in step])
        numel = np.median(a[:, 4] / (2 * eta_of * a[0, 6] * rms**2))
        chosen = np.arange(0, 8001, gap).astype(float)
        chosen[0] = 1
        at = np.exp(np.interp(chosen, step, np.log(rms)))
        found = recovered_alignment([int(s) for s in chosen], at, [_eta(s, a[0, 5]) for s in chosen], a[0, 6])
        inside = (chosen >= 500) & (chosen <= 7200)
        total_found = total_found + (found * at**2 * numel)[inside]
        smooth = np.convolve(-a[:, 2], np.ones(9) / 9, "same")  # single steps scatter by 15 %
        total_true = total_true + np.interp(chosen, step, smooth)[inside]
    return float(1 - np.abs(total_found - total_true).sum() / np.abs(total_true).sum())


def _eta(step: float, peak: float) -> float:
    """Warm-up over 200 steps, cosine to a tenth at 8,000."""
    if step < 200:
        return float(peak * step / 200)
    return float(peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - 200) / 7800))))


def checkpoints(folder: Path, count: int, logged: bool) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(128, 128, generator=generator)
    history = [{"step": 100 * n, "learning_rate": 1e-3} for n in range(1, count + 1)]
    for n in range(1, count + 1):
        inner = folder / f"checkpoint-{100 * n}"
        inner.mkdir(parents=True)
        save_file({"layers.0.self_attn.q_proj.weight": w * math.exp(0.01 * n)}, inner / "model.safetensors")
        state = {"global_step": 100 * n, "log_history": history[:n] if logged else []}
        (inner / "trainer_state.json").write_text(json.dumps(state))
    return [str(folder)]


def test_table_of_a_trajectory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", *checkpoints(tmp_path / "a", 6, True), "--weight-decay", "0.1"]) == 0
    out = capsys.readouterr().out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("attn_q ") and "+40" in line)
    # 2·0.01/100 + 2·1e-3·0.1 a step
    assert [float(value) for value in row[1:]] == pytest.approx([40.0] * 6, abs=0.6)
    assert main(["scan", *checkpoints(tmp_path / "b", 6, False), "--weight-decay", "0.1"]) == 0
    assert "η is not known" in capsys.readouterr().out
    assert main(["scan", str(tmp_path / "b"), "--weight-decay", "0.1", "--learning-rate", "1e-3"]) == 0
    assert "+40." in capsys.readouterr().out
    assert main(["scan", *checkpoints(tmp_path / "c", 3, True), "--weight-decay", "0.1"]) == 0
    assert "3 checkpoints are too few" in capsys.readouterr().out
    assert main(["scan", str(tmp_path / "a")]) == 0
    assert "alignment" not in capsys.readouterr().out
