"""Checkpoints measured as they lie on disk: the same counts and fits as of the loaded model, in bounded memory."""

from weibull_monitor.checkpoint.scan import scan as scan
