"""The plugin for Axolotl, against Axolotl's own plugin manager where it is installed, and otherwise against its interface.

Axolotl pins its own versions of torch and transformers, so it is not among the libraries of the tests.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weibull_monitor import ConfigurationError

pytest.importorskip("transformers", reason="needs the transformers extra")
pytest.importorskip("pydantic", reason="Axolotl's configuration is made of it")

from small_trainer import steps, trainer

PLUGIN = "weibull_monitor.integrations.axolotl.WeibullPlugin"


class DictDefault(dict[str, Any]):
    """Axolotl's dictionaries: an attribute or a key that is not there is None."""

    def __missing__(self, key: str) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def to_dict(self) -> dict[str, Any]:
        return {name: value.to_dict() if isinstance(value, DictDefault) else value for name, value in self.items()}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the plugin."""
    if find_spec("axolotl") is None:
        base = ModuleType("axolotl.integrations.base")
        base.BasePlugin = type("BasePlugin", (), {"__init__": lambda self: None})  # type: ignore[attr-defined]
        for name in ("axolotl", "axolotl.integrations"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, base.__name__, base)
        monkeypatch.delitem(sys.modules, "weibull_monitor.integrations.axolotl", raising=False)
    return importlib.import_module(PLUGIN.rpartition(".")[0])


def test_the_callback_has_the_options_of_the_file(module: Any, tmp_path: Path) -> None:
    config = DictDefault(output_dir=str(tmp_path), weibull_monitor=DictDefault(every_n_steps=4, kinds=DictDefault()))
    plugin = module.WeibullPlugin()
    plugin.register(config)
    run = trainer(tmp_path)
    (callback,) = plugin.add_callbacks_post_trainer(config, run)
    run.add_callback(callback)
    run.train()
    assert steps(tmp_path) == [0, 1, 2, 4, 6]


def test_without_options_there_are_the_defaults(module: Any, tmp_path: Path) -> None:
    (callback,) = module.WeibullPlugin().add_callbacks_post_trainer(DictDefault(), None)
    assert callback._options["every_n_steps"] == 100


def test_wrong_options_end_the_program_when_the_file_is_read(module: Any) -> None:
    plugin = module.WeibullPlugin()
    with pytest.raises(TypeError, match="weibull_monitor has no option 'every_n_step'; did you mean 'every_n_steps'"):
        plugin.register({"weibull_monitor": {"every_n_step": 4}})
    with pytest.raises(ConfigurationError, match="detail is 'x'"):
        plugin.register({"weibull_monitor": {"detail": "x"}})


def test_the_schema_has_a_place_for_the_options(module: Any) -> None:
    path, _, name = module.WeibullPlugin().get_input_args().rpartition(".")
    assert path == module.__name__
    schema = getattr(module, name)
    assert schema(weibull_monitor={"every_n_steps": 4}).weibull_monitor == {"every_n_steps": 4}
    assert schema().weibull_monitor is None
