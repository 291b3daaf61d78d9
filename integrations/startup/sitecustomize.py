"""Python imports this when it starts, where ``weibull-monitor run`` has put its folder on PYTHONPATH.

It has to cost nothing in a process that trains nothing: it imports nothing of weibull_monitor before a training framework is
imported. It then imports the user's own ``sitecustomize``, as Python would have.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FRAMEWORKS = ("transformers", "lightning", "pytorch_lightning")


class First:
    """Notices the first import of a framework, and hands over to `weibull_monitor.integrations.autolog`."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Finds what Python would find."""
        if name not in FRAMEWORKS:
            return None
        sys.meta_path.remove(First)
        try:
            from weibull_monitor.integrations.autolog import from_environment

            from_environment()
        except Exception as error:
            print(f"weibull-monitor run: {sys.executable} measures nothing ({error})", file=sys.stderr)
        return next((found for f in sys.meta_path[:] if (found := f.find_spec(name, path, target))), None)


if "WEIBULL_MONITOR_AUTOLOG" in os.environ:
    sys.meta_path.insert(0, First)

sys.path[:] = [place for place in sys.path if os.path.abspath(place) != HERE]
this = sys.modules.pop("sitecustomize")
try:
    import sitecustomize  # noqa: F401 - the user's own
except ModuleNotFoundError as error:
    sys.modules["sitecustomize"] = this
    if error.name != "sitecustomize":
        raise
