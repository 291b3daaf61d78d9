"""What imports what: the order of the layers, and no optional library in `import weibull_monitor`."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.inputs import write_history

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "weibull_monitor"

# From the top down: a module imports from its own folder and from those below it.
LAYERS = [
    "cli",
    "integrations",
    "report",
    "monitor",
    "checkpoint",
    "trackers",
    "alerts",
    "analysis",
    "scaling",
    "history",
    "measure",
    "model",
    "errors",
    "version",
]


def module_of(file: Path) -> str:
    """The dotted name of a file, below the package: ``measure.plain.count``; of a folder's ``__init__.py`` that of the folder."""
    base = ROOT if file.parent.name == "integrations" and PACKAGE not in file.parents else PACKAGE
    return ".".join(part for part in file.relative_to(base).with_suffix("").parts if part != "__init__")


FILES = {
    module_of(f): f for f in [*PACKAGE.rglob("*.py"), *(ROOT / "integrations").glob("*.py")] if f.parent != PACKAGE
}
FILES |= {name: PACKAGE / f"{name}.py" for name in ("errors", "version")}


def imported(module: str) -> set[str]:
    """The modules of ours that a module names in an import, anywhere in it: within functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("weibull_monitor.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").removeprefix("weibull_monitor.")
            if node.level:  # relative, as the files of `integrations` import each other
                above = module.split(".")[: -node.level + (FILES[module].stem == "__init__")]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of the folder `base`, or a value of the module `base`
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base)
    return (found & FILES.keys()) - {module}


GRAPH = {module: imported(module) for module in FILES}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_down(module: str) -> None:
    level = LAYERS.index(module.split(".")[0])
    up = {name for name in GRAPH[module] if LAYERS.index(name.split(".")[0]) < level}
    assert not up, f"{module} imports from above: {sorted(up)}"


def test_no_imports_run_in_a_circle() -> None:
    sorter = graphlib.TopologicalSorter(GRAPH)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_the_root_holds_only_what_has_no_folder() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "version.py"}


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_file_is_two_things(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 400


def test_importing_the_package_imports_no_optional_library() -> None:
    optional = [
        "transformers",
        "lightning",
        "wandb",
        "tensorboard",
        "plotly",
        "pandas",
        "scipy",
        "mlflow",
        "rich",
        "matplotlib",
    ]
    program = f"import sys, weibull_monitor; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with alerts and a resumption."""
    return write_history(tmp_path_factory.mktemp("recorded"), steps=4).parent


@pytest.mark.parametrize(
    "command",
    ["alerts RUN", "compare RUN", "paper", "report RUN -o PAGE", "sweep RUN", "watch RUN --once", "--help"],
    ids=lambda command: command.split()[0],
)
def test_a_history_is_read_without_torch(command: str, recorded: Path, tmp_path: Path) -> None:
    """Importing torch takes two seconds of a core: those who look at a run should not wait for it."""
    words = [{"RUN": str(recorded), "PAGE": str(tmp_path / "page.html")}.get(word, word) for word in command.split()]
    program = "import sys; from weibull_monitor.cli.main import main\n"
    program += "try: code = main(sys.argv[1:])\nexcept SystemExit as stop: code = stop.code\n"
    program += "print(code, 'torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 False"


def test_the_table_of_contents_is_short() -> None:
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("file", sorted((ROOT / "integrations").glob("*.py")), ids=lambda f: f.name)
def test_integrations_are_thin(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 150
