"""The saved view: every key in it is one that a run logs, and the library takes it. What needs W&B's server is not tested."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyModel
from trackers.wandb_offline import history as wandb_rows

from weibull_monitor import WeibullMonitor
from weibull_monitor.cli.main import main
from weibull_monitor.model.components import CLASS_OF_KIND
from weibull_monitor.trackers.wandb_workspace.subject import Subject, subject_of_kinds
from weibull_monitor.trackers.wandb_workspace.view import LOSS, MOST_KINDS, build, sections_of

pytest.importorskip("wandb", reason="needs the wandb extra")
pytest.importorskip("wandb_workspaces", reason="needs the workspaces extra")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that there is: a schedule, forces, alerts, pictures."""
    where = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    options: dict[str, Any] = {"scheduler": lambda step: 1.0, "total_steps": 30, "forces": True, "every_n_steps": 5}
    with WeibullMonitor(model, optimizer, output_dir=where, trackers=["wandb"], **options) as monitor:
        for _ in range(30):
            x = torch.randn(8, 32)
            optimizer.zero_grad()
            (model(x) - x.roll(1, dims=1)).square().mean().backward()
            optimizer.step()
            monitor.step()
    return where


@pytest.fixture(scope="module")
def logged(run: Path) -> set[str]:
    """Every key of the run's rows, as W&B recorded them."""
    keys = {key for row in wandb_rows(run) for key in row}
    return {re.sub(r"^(weibull_(?:pictures|tables)/\w+)/.*", r"\1", key) for key in keys}


def panels(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]


def keys_of(spec: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Keys and regular expressions of a view as it would be sent to W&B."""
    keys: set[str] = set()
    patterns: set[str] = set()
    for panel in panels(spec):
        config = panel["config"]
        keys |= set(config.get("metrics") or ()) | set(config.get("mediaKeys") or ())
        if "xAxis" in config:
            keys.add(config["xAxis"])
        if config.get("metricRegex"):
            patterns.add(config["metricRegex"])
    text = json.dumps(spec)
    keys |= {key for key in ("weibull_tables/fits",) if key in text}
    return keys, patterns


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["wandb-workspace", "team/project", "--dry-run", *arguments]) == 0
    spec: dict[str, Any] = json.loads(capsys.readouterr().out)
    return spec


def test_every_key_of_the_view_of_a_run_is_logged_by_that_run(
    run: Path, logged: set[str], capsys: pytest.CaptureFixture[str], documented_key: Callable[[str], bool]
) -> None:
    spec = dry_run(capsys, "--run", str(run))
    keys, patterns = keys_of(spec)
    assert len(keys) > 40
    assert patterns == {LOSS}  # it is known which kinds there are
    assert keys - logged == set()
    assert [key for key in keys if not documented_key(key)] == []
    assert {"weibull_band/selection_low", "weibull_tables/fits", "weibull_pictures/heatmap", "weibull_step"} <= keys
    names = [s["name"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]]
    assert names == [
        "Classes",
        "Scale",
        "Shape per kind",
        "Pictures",
        "Alerts",
        "Fit quality",
        "Health",
        "Forces",
        "Runs",
    ]
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("team", "project", "Weibull monitor")


def test_the_view_for_any_run_finds_its_keys_by_patterns(logged: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    keys, patterns = keys_of(dry_run(capsys, "--forces", "--name", "mine"))
    assert keys - logged == set()
    for pattern in patterns - {LOSS}:
        assert any(re.search(pattern, key) for key in logged), pattern
    found = {key for key in logged for pattern in patterns if re.search(pattern, key)}
    assert {"weibull_k/attn_q", "weibull_lambda/ffn_out", "weibull_force/net/attn_o"} <= found
    assert not [key for key in found if key.startswith("weibull_k_min") and re.search("^weibull_k/", key)]


def test_the_loss_stands_beside_the_classes_over_the_axis_of_its_own_run(capsys: pytest.CaptureFixture[str]) -> None:
    spec = dry_run(capsys)
    (classes,) = [s for s in spec["spec"]["section"]["panelBankConfig"]["sections"] if s["name"] == "Classes"]
    loss = classes["panels"][0]["config"]
    assert loss["chartTitle"] == "training loss"
    assert "xAxis" not in loss  # our rows have weibull_step, those of a Trainer have not
    for key in ("loss", "train/loss", "train_loss", "train_loss_step"):  # own loops, the Trainer, Lightning
        assert re.search(loss["metricRegex"], key), key
    assert not re.search(loss["metricRegex"], "eval/loss")


def test_lambda_is_drawn_against_the_effective_value(capsys: pytest.CaptureFixture[str]) -> None:
    spec = dry_run(capsys, "--kinds", "attn_q,ffn_down")
    (law,) = [p["config"] for p in panels(spec) if "against" in p["config"].get("chartTitle", "")]
    assert law["xAxis"] == "weibull_scaling/effective_sqrt_eta_over_wd"
    assert law["metrics"] == ["weibull_lambda/attn_q", "weibull_lambda/ffn_down"]


def test_panels_are_laid_out_without_overlap_and_their_number_is_bounded() -> None:
    most = Subject(kinds=tuple(CLASS_OF_KIND), forces=True)
    assert sum(len(panels) for panels in sections_of(most).values()) <= MOST_KINDS + 32
    workspace = build("team", "project", most)
    for section in workspace.sections:
        taken: set[tuple[int, int]] = set()
        for panel in section.panels:
            at = panel.layout
            cells = {(x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)}
            assert not taken & cells, section.name
            assert at.x + at.w <= 24
            taken |= cells


def test_kinds_and_names_of_projects_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb-workspace", "team/project", "--dry-run", "--kinds", "attn_q,query"]) == 1
    assert "query is not a kind; the kinds are attn_q" in capsys.readouterr().err
    for project in ("project", "a/b/c", "/project"):
        with pytest.raises(SystemExit) as raised:
            main(["wandb-workspace", project, "--dry-run"])
        assert raised.value.code == 2


def test_a_model_without_attention_has_no_panel_of_it() -> None:
    subject = subject_of_kinds(["ffn_up", "ffn_down"], forces=False)
    shown = [panel for panels in sections_of(subject).values() for panel in panels]
    assert not [keys for _, arguments in shown for keys in arguments.get("y", ()) if "selection" in keys]
    assert ("RunComparer", {"diff_only": "split"}) in shown


def test_what_the_server_is_sent_is_what_a_dry_run_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb
    import wandb_workspaces.workspaces.interface as interface
    import wandb_workspaces.workspaces.internal as internal

    monkeypatch.setattr(wandb, "Api", lambda: None)  # it wants a login
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.ai")
    sent = []

    def upsert(view: Any) -> dict[str, Any]:
        sent.append(json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)))
        return {"upsertView": {"view": {"id": "1", "name": "nw-abc-v"}}}

    monkeypatch.setattr(internal, "upsert_view2", upsert)
    assert main(["wandb-workspace", "team/project", "--kinds", "attn_q"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("saved: https://")
    assert "team/project" in out
    printed = dry_run(capsys, "--kinds", "attn_q")["spec"]
    assert without_ids(sent[0]) == without_ids(printed)


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(part) for key, part in value.items() if key not in ("id", "__id__")}
    return [without_ids(part) for part in value] if isinstance(value, list) else value


def test_a_server_that_does_not_take_it_is_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb_workspaces.workspaces.internal as internal

    def upsert(view: Any) -> dict[str, Any]:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(internal, "upsert_view2", upsert)
    assert main(["wandb-workspace", "team/project"]) == 1
    error = capsys.readouterr().err
    assert "W&B did not accept the view (no route to host); run `wandb login`" in error
    assert error.count("\n") == 1


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["wandb-workspace", "team/project", "--dry-run"]) == 1
    assert "pip install 'weibull-monitor[workspaces]'" in capsys.readouterr().err
