"""Pictures of runs that were broken on purpose: a column of the history, and the loss beside it."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pictures.palette import Palette
from pictures.style import save
from pictures.training import broken
from weibull_monitor.history.alert import rank
from weibull_monitor.history.record import History

LABELS = {
    "lambda": "λ (log scale)",
    "k": "k",
    "r2": "R²",
    "nonfinite": "Inf and NaN values",
    "moved": "change of λ in 10 steps, %",
}


def fault(name: str, column: str, kinds: tuple[str, ...], title: str) -> None:
    """The matrices of some kinds over the steps, the broken one apart, with the alerts; and the loss."""
    outcome, history = broken(name)
    assert outcome.fault_step is not None
    begun = [a for a in history.alerts if a.phase == "begins" and rank(a.finding.severity) > 1]

    def draw(figure: Figure, palette: Palette) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        labelled = set()
        for component in history.components:
            if component.kind in kinds:
                victim = component.name in outcome.victims
                color = palette.alert if victim else palette.of(component.component_class)
                label = (
                    f"{component.kind}, {'the broken one' if victim else 'the others'}"
                    if outcome.victims
                    else component.kind
                )
                steps, values = series(history, component.name, column)
                style = {"linewidth": 2.2, "zorder": 3} if victim else {"alpha": 0.75}
                top.plot(steps, values, color=color, marker=".", label=None if label in labelled else label, **style)
                labelled.add(label)
        if column == "lambda":
            top.set_yscale("log")
            top.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            top.yaxis.set_major_formatter("{x:g}")
            top.yaxis.set_minor_formatter(NullFormatter())
        if column == "nonfinite":
            top.set_yscale("symlog")
        told = "; ".join(
            f"{', '.join(rules)} at step {step}" for step, rules in by_step(begun, outcome.fault_step).items()
        )
        top.set(ylabel=LABELS[column])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        top.set_title(f"alerts: {told}", fontsize=9, color=palette.alert)
        for axes in (top, bottom):
            axes.axvline(outcome.fault_step, color=palette.ink, linestyle=":", linewidth=1.1)
        top.legend(loc="best")
        losses = [(i, v) for i, v in enumerate(outcome.losses, 1) if v is not None]
        bottom.plot(*zip(*losses, strict=True), color=palette.ink, linewidth=0.9)
        bottom.set(xlabel="optimizer step", ylabel="training loss", xlim=(0, len(outcome.losses)))
        mark(bottom, outcome.fault_step)

    save(f"fault-{name}", (8.0, 4.6), draw)


def by_step(alerts: list, fault_step: int) -> dict[int, list[str]]:
    """Names of the rules that told something within 30 steps of the fault, by step."""
    found: dict[int, list[str]] = {}
    for alert in alerts:
        if fault_step < alert.step <= fault_step + 30:
            found.setdefault(alert.step, []).append(alert.finding.rule)
    return found


def series(history: History, name: str, column: str) -> tuple[list[int], list[float]]:
    """Steps and values of a column; ``moved`` is how far λ has come since the sample before, in percent."""
    if column != "moved":
        points = history.series(name, column)
    else:
        scale = [p for p in history.series(name, "lambda") if p[0] >= 70]
        points = [(step, 100 * abs(now / before - 1)) for (_, before), (step, now) in pairwise(scale)]
    return [step for step, _ in points], [value for _, value in points]


def mark(axes: Axes, step: int) -> None:
    """Says where the fault struck."""
    axes.annotate(" fault", (step, axes.get_ylim()[1]), va="top", fontsize=9)


Q, K, ALL = ("attn_q",), ("attn_k",), ("attn_q", "attn_k", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
FAULTS = {
    "fault-scaled": partial(fault, "scaled", "lambda", Q, "W_q of one block × 8"),
    "fault-reinitialised": partial(fault, "reinitialised", "lambda", K, "W_k of one block initialised anew"),
    "fault-rate": partial(fault, "rate", "lambda", ("attn_q", "ffn_up"), "learning rate × 30"),
    "fault-decay": partial(fault, "decay", "lambda", ("attn_q", "ffn_up"), "weight decay × 100"),
    "fault-frozen": partial(fault, "frozen", "moved", ("attn_o",), "one W_o moves no more: its steps are lost in bf16"),
    "fault-nonfinite": partial(fault, "nonfinite", "nonfinite", ("attn_q", "ffn_up"), "a batch that gave Inf"),
    "fault-two-populations": partial(fault, "two-populations", "r2", ("ffn_up",), "half of the rows of one W_up / 256"),
}
"""By the name of the picture."""
