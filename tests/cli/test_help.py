"""Help: examples that the real grammar takes, exit codes, and a start without torch."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from weibull_monitor import __version__
from weibull_monitor.cli.demo import NEXT
from weibull_monitor.cli.main import main, parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def examples(text: str) -> list[str]:
    """Lines that begin with the program's name, without comments and redirections."""
    lines = re.findall(r"^\s*(?:\$ )?weibull-monitor(?: (.+))?$", text, flags=re.MULTILINE)
    return [re.split(r"\s{2,}#|\s+#\s|\s+[>|]\s", line)[0] for line in lines if "COMMAND" not in line]


def parses(line: str) -> bool:
    try:
        parser().parse_args(shlex.split(line))
    except SystemExit as end:
        return end.code == 0
    return True


@pytest.mark.parametrize("name", commands())
def test_every_example_in_help_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_code([name, "--help"]) == 0
    text = capsys.readouterr().out
    own = [line for line in examples(text.partition("examples:")[2]) if line]
    assert own, f"{name} --help has no examples"
    for line in own:
        assert line.split()[0] == name
        assert parses(line), line
    assert "exit codes: 0 done" in text


def test_the_examples_of_the_top_help_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_code(["--help"]) == 0
    lines = examples(capsys.readouterr().out.partition("examples:")[2])
    assert len(lines) > 2
    assert all(parses(line) for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_in_the_documentation_parse(page: Path) -> None:
    blocks = re.findall(r"^```(?:\w+)?\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in (line for block in blocks for line in examples(block)):
        assert parses(line), line


def test_an_example_that_does_not_parse_is_found() -> None:
    assert not parses("compare runs/x --no-such-option")
    assert examples("  weibull-monitor compare runs/x   # why\n") == ["compare runs/x"]


def test_what_the_demo_names_as_next_parses() -> None:
    assert all(parses(words.format("runs/demo")) for words, _ in NEXT)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_code(["--version"]) == 0
    assert capsys.readouterr().out == f"weibull-monitor {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["completion", "bash"], ["compare"], ["sweep", "--help"]]
)
def test_what_needs_no_weights_starts_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from weibull_monitor.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    )
    program += "print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False False"


def test_the_module_runs_as_the_script_does() -> None:
    done = subprocess.run([sys.executable, "-m", "weibull_monitor", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"weibull-monitor {__version__}\n")


def main_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
