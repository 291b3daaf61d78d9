"""Counts and fits in plain torch, on any device."""
