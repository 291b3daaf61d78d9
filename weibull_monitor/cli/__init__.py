"""The commands of ``weibull-monitor``, one per module: its ``add`` registers the command with the grammar."""
