"""The completion scripts in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from weibull_monitor.cli.main import main

pytest.importorskip("shtab", reason="completion needs shtab")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a run, a file and a space in a name."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "second one").mkdir()
    (tmp_path / "rules.toml").write_text("")
    return tmp_path


def completed(text: str, line: str, place: Path) -> list[str]:
    """What bash offers after a line: its completion function is called as bash calls it."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    program = f"""{text}
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
function=$(complete -p weibull-monitor | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function weibull-monitor '{words[-1]}' '{words[-2] if len(words) > 1 else ""}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    done = subprocess.run([bash, "--norc", "-c", program], capture_output=True, text=True, cwd=place)
    assert done.stderr == ""
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("weibull-monitor comp", {"components", "compare", "completion"}),
        ("weibull-monitor completion ", {"bash", "zsh", "tcsh", "fish"}),
        ("weibull-monitor compare --ne", {"--neighbours"}),
        ("weibull-monitor alerts --severity ", {"info", "warning", "error"}),
        ("weibull-monitor compare ru", {"runs", "rules.toml"}),
        ("weibull-monitor compare runs/", {"runs/first", "runs/second one"}),
        ("weibull-monitor alerts runs/first --config ru", {"rules.toml", "runs"}),
        ("weibull-monitor demo --output ru", {"runs"}),
    ],
)
def test_bash_completes(line: str, offered: set[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {word.rstrip("/") for word in completed(script("bash", capsys), line, place)}
    assert offered <= found
    if "--output" in line:  # directories only
        assert found == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert "neighbours" in text
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    file = tmp_path / f"completion.{shell}"
    file.write_text(text)
    done = subprocess.run([program, "-n", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_zsh_offers_the_commands(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh")
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "_weibull-monitor").write_text(script("zsh", capsys))
    program = f"""
zmodload zsh/zpty
zpty shell '{zsh} -f -i'
zpty -w shell 'fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; print DONE-$((1+1))'
zpty -r -m shell said '*DONE-2*'
zpty -n -w shell $'weibull-monitor compa\\t'
for i in {{1..40}}; do zpty -r -t shell piece && said+=$piece; sleep 0.05; done
print -r -- $said
"""
    done = subprocess.run([zsh, "-f", "-c", program], capture_output=True, text=True, timeout=30, cwd=place)
    assert "weibull-monitor compare" in done.stdout
