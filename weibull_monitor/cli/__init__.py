"""The commands of ``weibull-monitor``, one a module: ``add`` registers it with the command line's grammar."""
