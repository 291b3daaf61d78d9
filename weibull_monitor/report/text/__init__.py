"""Histories, checkpoints and comparisons as plain text."""
