"""A callback in every Trainer of this process, without a change to the code that makes it."""

from __future__ import annotations

import json
import logging
import os
from typing import Any, Final

from .trainers import Finder, install, remove

ENVIRONMENT: Final = "WEIBULL_MONITOR_AUTOLOG"
"""The variable through which ``weibull-monitor run`` passes the options on, as JSON: ``options`` and ``log``."""


def autolog(*, disable: bool = False, **options: Any) -> None:
    """Gives each Hugging Face and Lightning Trainer that is made from now on in this process a `WeibullCallback`.

    Subclasses get it too: TRL's trainers, `Seq2SeqTrainer`, those of sentence-transformers. A Trainer that has one already, or
    gets one later, keeps that one only. The frameworks are not imported here: they are changed when the program imports them.
    Own loops are not covered: use `WeibullMonitor` or `AccelerateMonitor` there.

    Args:
        disable: Whether to undo it. Trainers that were made before keep their callbacks.
        options: The options of the callbacks, which `MonitorOptions` documents. Each Trainer has a callback of its own with
            these options; a second call replaces them.

    Raises:
        ConfigurationError: If an option is out of range.
        TypeError: If an option does not exist, or is passed with ``disable``.

    >>> import weibull_monitor
    >>> weibull_monitor.autolog(every_n_steps=50)
    >>> weibull_monitor.autolog(disable=True)
    """
    if disable:
        if options:
            raise TypeError(f"autolog(disable=True) takes no options, but was given {', '.join(options)}")
        remove()
    else:
        from .options import checked  # imports torch

        install(checked("autolog", options))


def from_environment() -> type[Finder]:
    """What ``weibull-monitor run`` asks of each Python process of the program: `autolog`, and a log that prints nothing."""
    given = json.loads(os.environ[ENVIRONMENT])
    if given.get("log"):
        log = logging.getLogger("weibull_monitor")
        log.addHandler(_LogFile(given["log"], delay=True, encoding="utf-8"))
        log.propagate = False  # the program's streams are its own
    install(given["options"])
    return Finder


class _LogFile(logging.FileHandler):
    """Appends to a file that the first message makes; nothing is printed if it cannot be written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.setFormatter(logging.Formatter(f"%(asctime)s [{os.getpid()}] %(levelname)s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing."""
