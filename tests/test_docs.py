"""The documentation is true: keys, links, and the examples that can run."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from weibull_monitor import MemoryTracker, WeibullMonitor
from weibull_monitor.components import CLASS_OF_KIND
from weibull_monitor.reference import PUBLISHED

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_every_logged_key_has_a_row_and_every_row_is_logged(
    tmp_path: Path,
    tiny_model: torch.nn.Module,
    train: Callable[..., list[float]],
    documented_key: Callable[[str], bool],
) -> None:
    tracker = MemoryTracker()
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2, weight_decay=0.1)
    options = {"every_n_steps": 1, "output_dir": tmp_path, "trackers": [tracker], "detail": "component"}
    options |= {"scheduler": lambda step: 1.0, "total_steps": 30, "forces": True}
    with WeibullMonitor(tiny_model, optimizer, **options) as monitor:  # type: ignore[arg-type]
        train(tiny_model, optimizer, 30, monitor.step)
    logged = {key for _, metrics in tracker.records for key in metrics}
    assert [key for key in logged if not documented_key(key)] == []
    rows = re.findall(r"^\| `(weibull_[^`]+)` \|", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) > 15
    for row in rows:
        pattern = re.compile(re.escape(row).replace("<kind>", "[a-z_]+").replace("<name>", ".+") + "$")
        assert any(pattern.match(key) for key in logged), f"{row} is documented and never logged"


def test_every_kind_is_documented_in_its_class() -> None:
    table = (ROOT / "docs/metrics.md").read_text()
    for kind, component_class in CLASS_OF_KIND.items():
        (row,) = re.findall(rf"^\| `{component_class}` \| (.*) \|$", table, flags=re.MULTILINE)
        assert f"`{kind}`" in row


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_with_a_prompt_run(page: Path) -> None:
    failed, _ = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failed == 0


def test_the_tables_of_published_models_are_those_of_the_package() -> None:
    page = (ROOT / "docs/published.md").read_text()
    assert generate_published().filled(page) == page, "run: python docs/generate_published.py"
    assert all(model.name in page for model in PUBLISHED)


def generate_published() -> ModuleType:
    """The script beside the page, which is no module of the package."""
    spec = spec_from_file_location("generate_published", ROOT / "docs/generate_published.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_names_the_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command
