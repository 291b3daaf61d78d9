"""What imports what: the order of the layers, and no optional library in `import weibull_monitor`."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "weibull_monitor"

# From the ground up; a module may import from its own layer and from those before it.
LAYERS = [
    ("errors", "guard", "reasons", "storage", "engines", "output", "palette"),
    ("sharding",),
    ("weibull", "meta", "bounds"),
    ("attribution", "forces"),
    ("components",),
    ("measure",),
    ("schedule", "snapshot", "grid"),
    ("continuity", "optimizers"),
    ("scaling",),
    ("budgets",),
    ("notes",),
    ("force_reader",),
    ("forecast",),
    ("plan",),
    ("law",),
    ("reference",),
    ("alerts",),
    ("trackers",),
    ("recorder", "options"),
    ("monitor",),
    ("public",),
    ("summary", "diagnosis"),
    ("compare",),
    ("sweep",),
    ("sweep_plot",),
    ("checkpoint",),
    ("report",),
    ("live", "workspace"),
    ("integrations",),
    ("demo",),
    ("commands",),
    ("cli",),
    ("__main__",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(file: Path) -> set[str]:
    """Names of our modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("weibull_monitor."):
            found.add(node.module.split(".")[1])
    return found


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f.parent != PACKAGE or f.stem != "__init__"]
FILES += sorted((ROOT / "integrations").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py") if PACKAGE in file.parents else "integrations"
    for name in imported(file):
        assert LEVEL[name] <= LEVEL[own], f"{own} imports {name}"


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


def test_the_table_of_contents_is_short() -> None:
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) <= 30


@pytest.mark.parametrize("file", sorted((ROOT / "integrations").glob("*.py")), ids=lambda f: f.name)
def test_integrations_are_thin(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 150


def test_a_wheel_holds_the_integrations_inside_the_package_only(tmp_path: Path) -> None:
    build = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77, which dev installs")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("weibull_monitor", "integrations"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "weibull_monitor/integrations/transformers.py" in names
    assert {"weibull_monitor/py.typed", "weibull_monitor/report/static/page.html"} <= set(names)
    assert {str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*.py")} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} <= {"weibull_monitor"}
