"""``python -m weibull_monitor``: the command line, wherever its script was put."""

import sys

from weibull_monitor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
