"""`MonitorOptions` is the only list of options: signatures, errors and help follow from it."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from weibull_monitor import ConfigurationError, WeibullMonitor, read_history
from weibull_monitor.alerts.stop import StopRequest
from weibull_monitor.monitor.options import MonitorOptions, option_fields, option_help

HOST = {"scheduler", "total_steps", "resume", "process_group", "trial", "join_timeout"}


def callback(host: str) -> Any:
    pytest.importorskip(host)
    return import_module(f"weibull_monitor.integrations.{host}").WeibullCallback


hosts = pytest.mark.parametrize("host", ["transformers", "lightning"])


def test_the_signature_of_the_monitor_is_that_of_its_options() -> None:
    model, optimizer, *options = inspect.signature(WeibullMonitor).parameters.values()
    assert (model.name, optimizer.name, optimizer.default) == ("model", "optimizer", None)
    assert options == list(inspect.signature(MonitorOptions).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in options)


@hosts
def test_the_signature_of_a_callback_leaves_out_what_its_host_knows(host: str) -> None:
    found = inspect.signature(callback(host)).parameters
    expected = {n: p for n, p in inspect.signature(MonitorOptions).parameters.items() if n not in HOST}
    assert list(found) == list(expected) == list(option_fields(host=False))
    assert found["every_n_steps"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    differing = {name for name in found if found[name].default != expected[name].default}
    assert differing == {"trackers"}
    assert found["trackers"].default == "auto"
    assert all(found[name].annotation == expected[name].annotation for name in found)


def test_every_option_is_documented_once_and_nothing_else_is() -> None:
    documented = re.findall(
        r"^ +(\w+): ", (MonitorOptions.__doc__ or "").partition("Attributes:")[2], flags=re.MULTILINE
    )
    assert documented == list(option_help()) == list(option_fields())
    assert all(text.endswith(".") and "  " not in text for text in option_help().values())


def test_help_shows_every_option() -> None:
    shown = WeibullMonitor.__init__.__doc__ or ""
    assert all(f"    {name}: {text}\n" in shown for name, text in option_help().items())


@hosts
def test_help_of_a_callback_shows_every_option_that_it_takes(host: str) -> None:
    shown = re.findall(r"^    (\w+): ", callback(host).__init__.__doc__, flags=re.MULTILINE)
    assert shown == list(option_fields(host=False))


@hosts
def test_no_docstring_but_that_of_the_options_lists_them(host: str) -> None:
    """A second list would get out of step with the first."""
    made = callback(host)
    for cls in (WeibullMonitor, made, *made.__bases__[:1]):
        listed = set(re.findall(r"^ +(\w+): ", inspect.getdoc(cls) or "", flags=re.MULTILINE))
        assert listed & option_fields().keys() <= {"every_n_steps", "output_dir"}  # the latter is an attribute too


def test_a_misspelt_option_suggests_the_nearest_one(tiny_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="WeibullMonitor has no option 'every_n_step'; did you mean 'every_n_steps'"):
        WeibullMonitor(tiny_model, output_dir=tmp_path, every_n_step=5)  # type: ignore[call-arg]
    assert not list(tmp_path.iterdir())


@hosts
@pytest.mark.parametrize(
    ("option", "says"), [("stop_at", "did you mean 'stop_on'"), ("resume", "the options are every_n_steps, ")]
)
def test_a_callback_refuses_what_it_does_not_take(host: str, option: str, says: str) -> None:
    with pytest.raises(TypeError, match=f"WeibullCallback has no option '{option}'; {says}"):
        callback(host)(**{option: None})


@hosts
def test_a_callback_checks_its_options_when_it_is_made(host: str) -> None:
    made = callback(host)
    made(20, trackers="tensorboard", forces=True)
    for options in ({"detail": "head"}, {"every_n_steps": 0}, {"pictures_every": -1}, {"trackers": ["tensorbored"]}):
        with pytest.raises(ConfigurationError):
            made(**options)


def test_what_is_secret_is_not_shown() -> None:
    assert "secret" not in repr(MonitorOptions(webhook="https://hooks.example.com/secret"))


def test_trackers_may_be_an_iterator(tiny_model: nn.Module, tmp_path: Path) -> None:
    from weibull_monitor import MemoryTracker

    tracker = MemoryTracker()
    with WeibullMonitor(tiny_model, output_dir=tmp_path, trackers=iter([tracker])) as monitor:
        monitor.step()
    assert [step for step, _ in tracker.records] == [s.step for s in read_history(tmp_path).snapshots]


def test_a_stop_request_is_true_if_training_should_stop(tiny_model: nn.Module, tmp_path: Path) -> None:
    assert [bool(request) for request in StopRequest] == [False, True, True]
    with WeibullMonitor(tiny_model, output_dir=tmp_path) as monitor:
        assert monitor.stop_requested is StopRequest.CONTINUE
