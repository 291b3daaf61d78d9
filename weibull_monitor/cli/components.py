"""``weibull-monitor components SOURCE``: the weight matrices of a model and their kinds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from weibull_monitor.cli.common import OK, Commands, add_command, add_kind, kinds_of

if TYPE_CHECKING:
    from weibull_monitor.model.components import Discovery


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "components",
        _execute,
        help="the weight matrices of a model and their kinds",
        description="Prints the weight matrices of a model by kind, and which are not recognised and why. No weights are read.",
        examples=[
            ("llama", "the default Llama of transformers"),
            ("path/to/checkpoint --list", "the model of a checkpoint, from its config.json, with every matrix by name"),
            ("llama --why layers.0.self_attn.q_proj", "why a matrix has its kind"),
            (r"my_model/config.json --kind 'my_mixer\.w=mixer'", "with a kind for matrices that are not recognised"),
        ],
    )
    command.add_argument("source", help="a config.json, a directory with one, or a model type such as 'llama'")
    command.add_argument("--list", action="store_true", help="also list every matrix by name")
    command.add_argument(
        "--why",
        metavar="NAME",
        help="print only why each matrix with NAME in its name has its kind",
    )
    command.add_argument(
        "--resolution",
        choices=("parameter", "matrix", "head"),
        default="matrix",
        help="parameter: stored matrices only; matrix: also their parts (default); head: also every attention head",
    )
    add_kind(command)


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.checkpoint.child import described_by
    from weibull_monitor.model.components import render
    from weibull_monitor.model.components.finder import Finder

    layout = described_by(options.source, Finder(kinds_of(options), None, None, options.resolution)).layout
    found = layout.discovery
    if options.why:
        return _why(found, options.why)
    if options.list:
        for component in found.components:
            shape = "×".join(str(n) for n in component.shape)
            print(f"{component.label:18} {shape:>18}  {component.name}")
        print()
    print(render(found))
    for one in layout.attention:
        print(f"attention: {one.tower or 'outside of blocks'}: {one}")
    return OK


def _why(found: Discovery, name: str) -> int:
    """Prints what the kinds of the matrices with a name rest on."""
    from weibull_monitor.errors import ConfigurationError

    chosen = [c for c in found.components if name in c.name]
    if not chosen:
        raise ConfigurationError(f"no matrix has {name!r} in its name; --list lists them all")
    for component in chosen:
        what = {
            "use": f"by what it does: {component.because}" if component.because else "by what it does",
            "name": "by its name and what is beside it" + (f": {component.why}" if component.why else ""),
            "you": "by the option --kind",
        }[component.evidence]
        print(f"{component.name} is {component.label}, {what}")
    if found.problem:
        print(f"no forward pass could be followed to its end: {found.problem}")
    return OK
