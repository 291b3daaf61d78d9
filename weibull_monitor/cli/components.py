"""``weibull-monitor components SOURCE``: which matrices a model has, and what each is."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, pattern_and_kind


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "components",
        help="which matrices a model has, and what each is",
        description="Prints which matrices a model has, what each is, what is not recognised and why. Reads no weights.",
        examples=[
            ("llama", "the default Llama of transformers"),
            ("path/to/checkpoint --list", "the model of a checkpoint's config.json, every matrix by name"),
            (r"my_model/config.json --kind 'my_mixer\.w=mixer'", "with a kind for what is not recognised"),
        ],
    )
    command.add_argument(
        "source", help="a directory that holds a config.json, such a file, or a model type such as 'llama'"
    )
    command.add_argument("--list", action="store_true", help="also list every matrix by name")
    command.add_argument(
        "--resolution",
        choices=("parameter", "matrix", "head"),
        default="matrix",
        help="stored matrices only; their parts too (default); every attention head too",
    )
    command.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="PATTERN=KIND",
        help=r"call what a pattern matches so, as in 'my_mixer\.w=mixer'; may be repeated",
    )
    command.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.model.components import attention_types, discover, render
    from weibull_monitor.model.meta_device import build

    kinds = dict(pattern_and_kind(text) for text in options.kind)
    model = build(options.source)
    found = discover(model, kinds=kinds, resolution=options.resolution)
    if options.list:
        for component in found.components:
            shape = "×".join(str(n) for n in component.shape)
            print(f"{component.label:18} {shape:>18}  {component.name}")
        print()
    print(render(found))
    for one in attention_types(model, found.components):
        print(f"attention: {one.tower or 'outside of blocks'}: {one}")
    return OK
