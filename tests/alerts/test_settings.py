from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from weibull_monitor import ConfigurationError
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.alerts.rules import RULES


def test_every_rule_has_settings() -> None:
    names = {f.name for f in fields(AlertSettings)}
    assert set(RULES) == names - {"cool_down", "deliver_from"}


def test_a_toml_file_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "alerts.toml"
    file.write_text(
        'alerts.cool_down = 0\nalerts.dead = false\n[alerts.selection_shift]\nz = 8\n[alerts.layer_outlier]\nignore = ["embed"]\n'
    )
    settings = AlertSettings.of(file)
    assert settings.cool_down == 0
    assert settings.selection_shift.z == 8.0
    assert isinstance(settings.selection_shift.z, float)
    assert settings.selection_shift.change == AlertSettings().selection_shift.change
    assert settings.layer_outlier.ignore == ("embed",)
    assert not settings.dead.enabled
    assert settings.scale_shift == AlertSettings().scale_shift
    assert AlertSettings.of(str(file)) == settings


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text("")
    assert (
        AlertSettings.of(tmp_path / "alerts.toml") == AlertSettings.of(True) == AlertSettings.of({}) == AlertSettings()
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[alerts.selection_shfit]\nz = 6", r"alerts\.selection_shfit is not known; did you mean selection_shift\?"),
        ("[alerts.selection_shift]\nzz = 6", r"alerts\.selection_shift\.zz is not known; did you mean z\?"),
        ("[alerts.selection_shift]\nz = -1", r"alerts\.selection_shift\.z is -1; it must be a number above 0"),
        ("[alerts.selection_shift]\nz = nan", r"alerts\.selection_shift\.z is nan; it must be a number above 0"),
        ("[alerts.selection_shift]\nz = 'six'", r"alerts\.selection_shift\.z is 'six'"),
        ("[alerts.dead]\njump = 1.5", r"alerts\.dead\.jump is 1\.5; it must be an integer"),
        ("[alerts.dead]\npersist = 0", r"alerts\.dead\.persist is 0; it must be an integer of at least 1"),
        ("[alerts.dead]\nenabled = 1", r"alerts\.dead\.enabled is 1; it must be true or false"),
        ("[alerts.dead]\nignore = ['(']", r"alerts\.dead\.ignore: '\(' is not a regular expression"),
        (
            "[alerts.dead]\nat_most = 'fatal'",
            r"alerts\.dead\.at_most is 'fatal'; it must be one of info, warning, error",
        ),
        ("[alerts]\ndead = 3", r"alerts\.dead is 3; it must be a table"),
        ("[alerts]\ndeliver_from = 'all'", r"alerts\.deliver_from is 'all'"),
        ("[selection_shift]\nz = 6", r"selection_shift is not known; settings stand under \[alerts\]"),
        ("[alerts", "is not TOML"),
        ("[alerts.dead]\nignore = " + "[" * 5000 + "]" * 5000, "is not TOML"),
        ("[alerts.dead]\njump = " + "9" * 5000, "is not TOML"),
        (
            "[alerts.dead]\njump = 99999999999",
            r"alerts\.dead\.jump is 9+; it must be an integer of at least 1, at most 1,000,000,000",
        ),
        ("[alerts.dead]\nfactor = " + "9" * 400, r"alerts\.dead\.factor is 9+…; it must be a number above 0"),
        ("[alerts.dead]\nignore = ['a{99999999999}']", "is not a regular expression"),
        ("# " + "x" * (1 << 20), "have more than"),
        ("[alerts.dead]\njump = 0x" + "f" * 10_000, r"alerts\.dead\.jump is a value of type int; it must"),
        ("alerts = 0x" + "f" * 10_000, "alerts is a value of type int; pass"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "alerts.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as raised:
        AlertSettings.of(file)
    assert str(file) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"alert settings .*none\.toml cannot be read"):
        AlertSettings.of(tmp_path / "none.toml")


def test_what_is_no_settings_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="alerts is 3; pass True, False"):
        AlertSettings.of(3)  # type: ignore[arg-type]
