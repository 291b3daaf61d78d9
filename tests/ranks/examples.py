"""Examples for many processes; run on each rank by `launch` instead of a launcher's command."""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(directory: Path, script: str, options: list[str]) -> str:
    """What the example prints. The process group is there already, and `launch` ends it."""
    sys.path.insert(0, str(EXAMPLES))
    sys.argv = [script, *options]
    printed = io.StringIO()
    group = {"init_process_group": mock.DEFAULT, "destroy_process_group": mock.DEFAULT}
    with mock.patch.multiple("torch.distributed", **group), redirect_stdout(printed):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return printed.getvalue()
