"""What a run has to say: Markdown that is printed as it comes and kept, figures for later parts, and the targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_parts.machine import Machine

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached.

    Attributes:
        what: What it is a figure of.
        wanted: Its value.
        unit: Its unit.
        at_least: Whether more is better.
    """

    what: str
    wanted: float
    unit: str = ""
    at_least: bool = False

    def judged(self, figure: float) -> str:
        """Whether a figure reaches it, and by how much it misses."""
        if (figure >= self.wanted) if self.at_least else (figure <= self.wanted):
            return "reached"
        missed = abs(figure - self.wanted)
        share = f" ({100 * missed / self.wanted:.0f} %)" if self.wanted else ""
        return f"missed by {missed:.3g}{_unit(self.unit)}{share}"

    def asked(self) -> str:
        """What is asked for, in words."""
        return f"{'≥' if self.at_least else '≤'} {self.wanted:,g}{_unit(self.unit)}"


TARGETS = {
    "device": Target("8 B bf16, a sample on the device", 8, "ms"),
    "share": Target("8 B bf16, share of the copy bandwidth", 50, "%", at_least=True),
    "read": Target("8 B bf16, host time of reading", 1, "ms"),
    "queue": Target("8 B bf16, host time of a sample: queueing it", 1, "ms"),
    "host": Target("8 B bf16, host time of a sample: queueing and delivering it", 1, "ms"),
    "waits": Target("8 B bf16, synchronisations of a sample", 0),
    "memory": Target("8 B bf16, extra memory", 64, "MiB"),
    "integers": Target("matrices whose counts are not those of the CPU path", 0),
    "hundred": Target("124 M, throughput lost at every 100 steps", 0.1, "%"),
    "every": Target("124 M, throughput lost at every step", 3, "%"),
    "published": Target("8 B bf16, values a second, times those of the published library", 10_000, "×", at_least=True),
}


class Page:
    """The Markdown of a run so far.

    Attributes:
        lines: What has been said.
        figures: Numbers that later parts use, by name.
        reached: The figure for each target that has one.
        failures: How many things have failed.
    """

    def __init__(self, rehearsal: bool) -> None:
        self._rehearsal = rehearsal
        self.lines: list[str] = []
        self.figures: dict[str, float] = {}
        self.reached: dict[str, float] = {}
        self.failures = 0

    def say(self, text: str) -> None:
        """A paragraph."""
        self._put("", text, "")

    def table(self, *columns: str) -> None:
        """The head of a table; the first column is text, the others numbers."""
        self._put("", _cells(columns), _cells(["---", *["---:"] * (len(columns) - 1)]))

    def row(self, *cells: str) -> None:
        """A row of it."""
        self._put(_cells(cells))

    def failed(self, what: str, error: BaseException) -> None:
        """Says in a line that something failed, and why."""
        self.failures += 1
        self.say(f"**FAILED** {what}: {reason(error)}")

    def meets(self, target: str, figure: float) -> None:
        """A figure for one of `TARGETS`."""
        self.reached[target] = figure
        self.say(f"Target: {self._judged(target)}.")

    def targets(self) -> None:
        """All targets beside their figures."""
        self.table("target", "wanted", "measured", "")
        for name, target in TARGETS.items():
            figure = self.reached.get(name)
            if figure is None:
                self.row(target.what, target.asked(), "–", "not measured")
            else:
                self.row(target.what, target.asked(), f"{figure:,.4g}{_unit(target.unit)}", self._verdict(name))

    def markdown(self) -> str:
        """Everything said, without more than one empty line at a time."""
        out: list[str] = []
        for line in "\n".join(self.lines).splitlines():
            if line or (out and out[-1]):
                out.append(line)
        return "\n".join(out).strip()

    def save(self, path: Path) -> None:
        """Keeps it for a process that goes on."""
        kept = {name: getattr(self, name) for name in ("lines", "figures", "reached", "failures")}
        path.write_text(json.dumps(kept))

    def restore(self, path: Path) -> None:
        """Goes on where it was kept."""
        for name, value in json.loads(path.read_text()).items():
            setattr(self, name, value)

    def _judged(self, name: str) -> str:
        target, figure = TARGETS[name], self.reached[name]
        return f"{target.what} {figure:,.4g}{_unit(target.unit)}, wanted {target.asked()}: {self._verdict(name)}"

    def _verdict(self, name: str) -> str:
        return "a rehearsal" if self._rehearsal else TARGETS[name].judged(self.reached[name])

    def _put(self, *lines: str) -> None:
        self.lines += lines
        for line in lines:
            print(line, flush=True)


def replaced(text: str, block: str) -> str:
    """A document with what stands between the two markers replaced.

    Raises:
        ValueError: If it does not have each of them once, in their order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the document has to hold {BEGIN} and {END}, each once")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def reason(error: BaseException) -> str:
    """An error in a line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300] if lines else 'no message'}"


def tried(machine: Machine, page: Page, what: str, work: Callable[[], object]) -> bool:
    """Whether some work succeeded; if not, that is said, and raised only where the device does not survive it."""
    try:
        work()
    except Exception as error:
        if not machine.alive():
            raise
        page.failed(what, error)
        return False
    return True


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{1e3 * seconds:,.3f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
