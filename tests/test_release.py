"""What is released: the sdist, the wheel made of it, and what they give in an environment that has nothing else of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import weibull_monitor

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def built(hook: str, source: Path, place: Path) -> Path:
    """What a hook of the build backend makes of a source tree."""
    command = [sys.executable, "-c", BUILD, hook, str(place)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return place / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the unpacked sdist."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77, which dev installs")
    place = tmp_path_factory.mktemp("release")
    source = place / "source"
    source.mkdir()
    for name in ("weibull_monitor", "integrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    archive = built("build_sdist", source, place)
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    return built("build_wheel", place / archive.name.removesuffix(".tar.gz"), place)


def test_a_wheel_holds_the_integrations_inside_the_package_only(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    places = {"weibull_monitor": ROOT / "weibull_monitor", "weibull_monitor/integrations": ROOT / "integrations"}
    modules = {f"{to}/{f.relative_to(place).as_posix()}" for to, place in places.items() for f in place.rglob("*.py")}
    assert modules <= names
    assert {"weibull_monitor/py.typed", "weibull_monitor/report/html/static/page.html"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"weibull_monitor"}


def test_the_wheel_works_where_nothing_of_the_repository_is(wheel: Path, tmp_path: Path) -> None:
    """The environment is empty; the libraries that it needs are added from this one, without the package that is tested."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    libraries = os.pathsep.join(place for place in sys.path if place.endswith("site-packages"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"LIBRARIES": libraries}
    program = """
import os, sys
sys.path += os.environ["LIBRARIES"].split(os.pathsep)
import weibull_monitor
from weibull_monitor.integrations.options import CallbackOptions
CallbackOptions(every_n_steps=3)
print(weibull_monitor.__file__, weibull_monitor.__version__, weibull_monitor.WeibullMonitor.__name__)
"""

    def said(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    place, version, name = said("-c", program).splitlines()[-1].split()
    assert Path(place).is_relative_to(tmp_path)
    assert (version, name) == (PROJECT["version"], "WeibullMonitor")
    assert said("-m", "weibull_monitor", "--version") == f"weibull-monitor {version}\n"  # needs no library
    assert "usage: weibull-monitor" in said("-m", "weibull_monitor", "--help")
    hooked = "import sys; print([finder.__name__ for finder in sys.meta_path if hasattr(finder, '__name__')][0])"
    assert said("-m", "weibull_monitor", "run", "--", str(python), "-c", hooked) == "First\n"


def test_the_version_is_said_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [PROJECT["version"]]
    assert set(PROJECT["urls"]) >= {"Homepage", "Documentation", "Issues", "Changelog"}
    sources = [*(ROOT / "weibull_monitor").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]
    assert not [file for file in sources if f'"{PROJECT["version"]}' in file.read_text(encoding="utf-8")]
    assert weibull_monitor.__version__.startswith("0.")


def test_the_workflow_is_made_of_commands_of_the_makefile() -> None:
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = {word for line in re.findall(r"run: make ([a-z ]+)", workflow) for word in line.split()}
    assert {"setup", "test", "dist", "site"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
