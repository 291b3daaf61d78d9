"""The documentation is true: keys, links, and the examples that can run."""

from __future__ import annotations

import doctest
import re
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

import weibull_monitor
from weibull_monitor import MemoryTracker, WeibullMonitor
from weibull_monitor.analysis import PUBLISHED
from weibull_monitor.model.components import CLASS_OF_KIND

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def test_every_logged_key_has_a_row_and_every_row_is_logged(
    tmp_path: Path,
    tiny_model: torch.nn.Module,
    train: Callable[..., list[float]],
    documented_key: Callable[[str], bool],
) -> None:
    tracker = MemoryTracker()
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2, weight_decay=0.1)
    options = {"every_n_steps": 1, "output_dir": tmp_path, "trackers": [tracker], "detail": "component"}
    # The model is called by names that a pass would not confirm.
    options |= {"scheduler": lambda step: 1.0, "total_steps": 30, "forces": True, "updates": True}
    options["example_inputs"] = False
    with WeibullMonitor(tiny_model, optimizer, **options) as monitor:  # type: ignore[arg-type]
        train(tiny_model, optimizer, 15, monitor.step)
        with torch.no_grad():  # tails are logged while they move
            next(p for p in tiny_model.parameters() if p.dim() == 2).view(-1)[0] = 3.0
        train(tiny_model, optimizer, 15, monitor.step)
    with WeibullMonitor(adapted(), output_dir=tmp_path / "adapters", trackers=[tracker], example_inputs=False):
        pass
    logged = {key for _, metrics in tracker.records for key in metrics}
    assert [key for key in logged if not documented_key(key)] == []
    rows = re.findall(r"^\| `(weibull_[^`]+)` \|", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) > 15
    for row in rows:
        pattern = re.compile(re.escape(row).replace("<kind>", "[a-z_]+").replace("<name>", ".+") + "$")
        assert any(pattern.match(key) for key in logged), f"{row} is documented and never logged"


def adapted() -> torch.nn.Module:
    """A layer with an adapter, by PEFT's names."""
    layer = torch.nn.Linear(64, 64)
    layer.weight.requires_grad_(False)
    layer.lora_A, layer.lora_B = torch.nn.Linear(64, 4, bias=False), torch.nn.Linear(4, 64, bias=False)
    layer.scaling = 2.0
    return torch.nn.ModuleDict({"q_proj": layer})


def test_every_kind_is_documented_in_its_class() -> None:
    table = (ROOT / "docs/metrics.md").read_text()
    for kind, component_class in CLASS_OF_KIND.items():
        (row,) = re.findall(rf"^\| `{component_class}` \| (.*) \|$", table, flags=re.MULTILINE)
        assert f"`{kind}`" in row


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(#[^)\s]*)?\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        file = (page.parent / target) if target else page
        assert file.exists(), target
        assert not anchor or anchor[1:] in anchors(file), f"{target}{anchor}"


def test_a_link_into_nothing_is_found() -> None:
    assert "the-forecast" in anchors(ROOT / "docs/scaling.md")
    assert "why-λ-moves-three-forces" in anchors(ROOT / "docs/scaling.md")
    assert "no-such-heading" not in anchors(ROOT / "docs/scaling.md")


def test_every_figure_is_drawn_by_a_command_and_shown_with_it() -> None:
    generator = script("generate_pictures")
    drawn = {f"{name}{variant}.svg" for name in generator.PICTURES for variant in ("", "-dark")}
    figures = sorted((ROOT / "docs" / "figures").iterdir())
    assert {figure.name for figure in figures} == drawn | set(generator.BY_OTHERS)
    assert sum(figure.stat().st_size for figure in figures) < 3_000_000
    shown = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"!\[[^\]]+\]\([^)]*figures/([^)]+)\)", text):
            shown.add(name)
            command = generator.BY_OTHERS.get(name, f"generate_pictures.py {name.removesuffix('.svg')}")
            assert page.name == "README.md" or command.split(" --")[0] in text, (
                f"{page.name} does not say what draws {name}"
            )
    assert shown == {name for name in drawn | set(generator.BY_OTHERS) if "-dark" not in name}


def test_the_page_of_the_command_line_is_that_of_the_grammar() -> None:
    generator = script("generate_cli")
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == generator.page(), "run: python docs/generate_cli.py"


def test_every_output_is_that_of_an_example_or_a_command() -> None:
    found = 0
    for page in PAGES:
        for command, output in re.findall(
            r"<!-- output: (.+?) -->\n(.*?)<!-- end -->", page.read_text(), flags=re.DOTALL
        ):
            found += 1
            assert output.count("\n") > 5, f"{page.name}: nothing is printed by {command}"
            for example in re.findall(r"examples/\w+\.py", command):
                assert (ROOT / example).is_file(), f"{page.name}: {example}"
    assert found == 9


def test_every_example_is_named_by_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    examples = {path.name for path in (ROOT / "examples").glob("*.py")} - {"small_llama.py"}  # which the others import
    assert [name for name in sorted(examples) if f"examples/{name}" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/api").glob("*.md"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", reference, flags=re.MULTILINE)}
    public = weibull_monitor.__all__
    modules = {"errors": "Error", "base": "Tracker"}
    for name in public:
        assert name in documented or any(m in documented and part in name for m, part in modules.items()), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_with_a_prompt_run(page: Path) -> None:
    failed, _ = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failed == 0


def test_the_tables_of_published_models_are_those_of_the_package() -> None:
    page = (ROOT / "docs/published.md").read_text()
    assert script("generate_published").filled(page) == page, "run: python docs/generate_published.py"
    assert all(model.name in page for model in PUBLISHED)


def script(name: str) -> ModuleType:
    """A script beside the pages, outside of the package."""
    spec = spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # What such a script puts into the path itself may be gone, where another test has imported a part of it before.
    needed = [str(ROOT / folder) for folder in ("docs", "benchmarks", "examples")]
    sys.path[:0] = needed
    try:
        spec.loader.exec_module(module)
    finally:
        for folder in needed:
            sys.path.remove(folder)
    return module


def test_the_readme_names_the_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command
