"""The picture of a forward pass: what happened in one block of a Llama, as the pass that settles kinds sees it."""

from __future__ import annotations

from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from pictures.palette import Palette
from pictures.style import save
from weibull_monitor.model.components import CLASS_OF_KIND
from weibull_monitor.model.dataflow import example_inputs_of, follow, verdicts

SHOWN = {"stream": "+", "attention": "softmax(q·k) v", "gated": "act(gate)·up"}
"""What is written on events that are not products."""


def forward_pass() -> None:
    """Every product with a matrix, and where its result goes; colours are those of the classes."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=1, **sizes))
    inputs = example_inputs_of(model)
    assert inputs is not None
    seen = follow(model, inputs)
    kinds = {seen.names.index(name): verdict.kind for name, verdict in verdicts(seen).items()}
    events = seen.graph.events
    nodes = [e for e in events if e.base == e.id]
    above = {e.id: {events[s].base for s in e.sources} for e in nodes}
    depth: dict[int, int] = {}
    for node in nodes:  # in the order in which they happened
        depth[node.id] = 1 + max((depth[s] for s in above[node.id]), default=-1)
    columns: dict[int, list[int]] = {}
    for node in nodes:
        columns.setdefault(depth[node.id], []).append(node.id)
    place = {n: (float(x), 0.5 * (len(ids) - 1) - i) for x, ids in columns.items() for i, n in enumerate(ids)}

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(-0.6, max(depth.values()) + 0.6), ylim=(-1.9, 1.7))
        for node in nodes:
            x, y = place[node.id]
            for source in above[node.id]:
                bend = "arc3,rad=0.35" if depth[node.id] - depth[source] > 2 else "arc3"
                axes.annotate(
                    "",
                    (x, y),
                    place[source],
                    arrowprops={
                        "arrowstyle": "->",
                        "color": palette.ink,
                        "lw": 0.8,
                        "shrinkA": 22,
                        "shrinkB": 24,
                        "connectionstyle": bend,
                    },
                    zorder=1,
                )
            kind = kinds.get(node.parameter, "") if node.parameter >= 0 else ""
            color = palette.of(CLASS_OF_KIND[kind]) if kind else palette.ink
            text = kind or SHOWN.get(node.type, node.type)
            box = {
                "boxstyle": "round",
                "facecolor": palette.ground,
                "edgecolor": color,
                "linestyle": "-" if kind else ":",
            }
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color, bbox=box, zorder=3)

    save("forward-pass", (10.0, 3.2), draw)
