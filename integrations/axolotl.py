"""A plugin for Axolotl: two lines in its YAML file, and the options of the callback under ``weibull_monitor``."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from .options import checked
from .transformers import WeibullCallback


class WeibullArguments(BaseModel):
    """What the plugin adds to Axolotl's configuration.

    Attributes:
        weibull_monitor: The options of the callback, which `MonitorOptions` documents.
    """

    weibull_monitor: dict[str, Any] | None = None


class WeibullPlugin(BasePlugin):
    """Gives Axolotl's Trainer a `WeibullCallback`.

    In the YAML file::

        plugins:
          - weibull_monitor.integrations.axolotl.WeibullPlugin
        weibull_monitor: # optional
          every_n_steps: 50

    Raises:
        ConfigurationError: When the file is read, if an option is out of range.
        TypeError: When the file is read, if an option does not exist.
    """

    def register(self, cfg: Any) -> None:
        """Checks the options, before a model is loaded."""
        _options(cfg)

    def get_input_args(self) -> str:
        """The name of the class that Axolotl adds to the schema of its configuration."""
        return f"{__name__}.{WeibullArguments.__name__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[WeibullCallback]:
        """The callback, after those that log for the Trainer."""
        return [WeibullCallback(**_options(cfg))]


def _options(cfg: Any) -> dict[str, Any]:
    given = cfg.get("weibull_monitor") or {}
    plain = (
        given.to_dict() if hasattr(given, "to_dict") else dict(given)
    )  # Axolotl's own dictionaries answer None to any key
    return checked("weibull_monitor", plain)
