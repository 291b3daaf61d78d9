"""A thermometer for weight matrices: live Weibull shape k and scale λ of |w| while a transformer trains."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from weibull_monitor.public import *  # noqa: F403 (it is the table of contents)
else:  # torch takes a second to import: it comes with the first name that is asked for, so `weibull-monitor --help` does not wait

    def __getattr__(name):
        if not name.startswith("_"):
            public = import_module(f"{__name__}.public")
            for place in (vars(public), globals()):  # what is public, and modules that came with it
                if name in place:
                    return place[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *vars(import_module(f"{__name__}.public"))})
