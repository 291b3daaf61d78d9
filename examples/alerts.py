"""Breaks a training on purpose, and shows that the weights reveal it while the loss does not.

    python examples/alerts.py

A small Llama-style model learns the sources of Python's standard library. After step 100 the W_q of its second block is
multiplied by 8, as by a wrong rescaling. The loss hardly changes. The next sample raises an alert, and a picture shows λ of every
W_q beside the loss. Needs ``pip install '.[transformers,report]'``; a minute or two on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from small_llama import LibrarySources, small_llama
from transformers import set_seed

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.alert import Alert

BROKEN = "model.layers.1.self_attn.q_proj.weight"


def train(where: Path, steps: int, broken_at: int) -> list[float]:
    """Trains, breaks a matrix after one step, and returns the loss of each step."""
    set_seed(0)
    model = small_llama(width=128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    loader = torch.utils.data.DataLoader(LibrarySources(), batch_size=8, shuffle=True)
    losses: list[float] = []

    def tell(alert: Alert) -> None:
        print(f"\n  {alert.title}\n  {alert.text}\n")

    with WeibullMonitor(model, optimizer, every_n_steps=10, output_dir=where, on_alert=tell) as monitor:
        for step, batch in enumerate(loader, 1):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step()
            losses.append(loss.item())
            if step % 20 == 0:
                print(f"step {step:3}: loss {losses[-1]:.3f}", flush=True)
            if step == broken_at:
                with torch.no_grad():
                    model.get_parameter(BROKEN).mul_(8.0)
                print(f"step {step:3}: {BROKEN} is now 8 times as large")
            if step == steps:
                break
    return losses


def picture(where: Path, losses: list[float], broken_at: int) -> Path:
    """λ of every W_q, the loss, and the alerts."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    history = read_history(where)
    figure, (scale, loss) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 6), height_ratios=(3, 2), constrained_layout=True
    )
    for component in history.components:
        if component.kind == "attn_q":
            points = history.series(component.name, "lambda")
            chosen = {"color": "#c02020", "linewidth": 2.2} if component.name == BROKEN else {"color": "#7090b0"}
            scale.plot(*zip(*points, strict=True), marker=".", label=f"W_q of block {component.block}", **chosen)
    for axes in (scale, loss):
        axes.axvline(broken_at, color="#808080", linestyle=":", linewidth=1.2)
    begun = [alert for alert in history.alerts if alert.phase == "begins" and alert.finding.severity != "info"]
    for step in sorted({alert.step for alert in begun}):
        rules = ", ".join(alert.finding.rule for alert in begun if alert.step == step)
        value = dict(history.series(BROKEN, "lambda"))[step]
        below = step > min(alert.step for alert in begun)
        scale.annotate(
            f"step {step}: {rules}",
            (step, value),
            xytext=(14, -40) if below else (-14, -16),
            textcoords="offset points",
            ha="left" if below else "right",
            arrowprops={"arrowstyle": "->", "color": "#c02020", "relpos": (0.0, 0.5) if below else (1.0, 0.5)},
            color="#c02020",
        )
    scale.set(ylabel="λ (log scale)", yscale="log", title="W_q of one block × 8: λ tells at the next sample")
    scale.legend(loc="upper left", frameon=False)
    loss.plot(range(1, len(losses) + 1), losses, color="#404040", linewidth=1.0)
    loss.set(ylabel="training loss", xlabel="optimizer step")
    loss.annotate(
        "scaled", (broken_at, loss.get_ylim()[1]), xytext=(4, -12), textcoords="offset points", color="#606060"
    )
    path = where / "alerts.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/alerts", help="where everything goes (default: runs/alerts)")
    parser.add_argument("--steps", type=int, default=160, help="optimizer steps (default: 160)")
    parser.add_argument("--broken-at", type=int, default=100, help="the step after which it is broken (default: 100)")
    options = parser.parse_args()
    where = Path(options.output_dir)
    losses = train(where, options.steps, options.broken_at)
    print(f"\nThe picture:  {picture(where, losses, options.broken_at)}")
    print(f"The alerts with other thresholds:  weibull-monitor alerts {where} --config FILE")


if __name__ == "__main__":
    main()
