"""The first picture of the README: what ``make demo`` trains, breaks and raises."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

from matplotlib.figure import Figure

from pictures import ROOT
from pictures.palette import Palette
from pictures.style import save
from pictures.training import RUNS
from weibull_monitor import read_history

BROKEN = "model.layers.3.self_attn.q_proj.weight"
COMMAND = ("examples/quickstart_transformers.py", "--break-a-layer", "--max-steps", "240", "--every-n-steps", "10")
"""As in the Makefile."""


def first() -> None:
    """The loss, λ of every W_q, and the first alert."""
    place = RUNS / "first"
    if not (place / "trainer_state.json").is_file():
        subprocess.run([sys.executable, *COMMAND, "--output-dir", str(place)], cwd=ROOT, check=True)
    history = read_history(place)
    state = json.loads((place / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [(entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry]
    alert = history.alerts[0]
    assert alert.finding.component == BROKEN

    def draw(figure: Figure, palette: Palette) -> None:
        loss, scale, text = figure.subplots(3, 1, height_ratios=(1.1, 2.2, 0.95))
        scale.sharex(loss)
        loss.plot(*zip(*losses, strict=True), color=palette.ink, marker=".")
        loss.set_ylim(0, 1.15 * losses[0][1])
        loss.set_title("training loss: it shows nothing")
        for component in history.components:
            if component.kind == "attn_q":
                broken = component.name == BROKEN
                label = "the broken one, block 3" if broken else "the other blocks" if component.block == 0 else None
                style = (
                    {"color": palette.alert, "linewidth": 2.4} if broken else {"color": palette.selection, "alpha": 0.8}
                )
                scale.plot(
                    *zip(*history.series(component.name, "lambda"), strict=True), label=label, marker=".", **style
                )
        scale.set_title("scale λ of the four query matrices W_q: one jumps to four times its value")
        scale.set(xlabel="optimizer step", ylim=(0, None))
        scale.legend(loc="upper left")
        for axes in (loss, scale):
            axes.axvline(alert.step, color=palette.alert, linestyle=":", linewidth=1.1)
        scale.annotate(
            "alert ",
            (alert.step, 0.05),
            xycoords=("data", "axes fraction"),
            ha="right",
            color=palette.alert,
            fontweight="bold",
        )
        text.axis("off")
        lines = textwrap.wrap(f"{alert.title}: {alert.text}", 104)
        words = text.text(0.012, 0.98, "\n".join(lines), family="monospace", fontsize=8, va="top", linespacing=1.45)
        words.set_in_layout(False)
        text.axvline(0, color=palette.alert, linewidth=5)

    save("first", (8.0, 4.9), draw)
