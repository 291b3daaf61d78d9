"""A whole model measured at once: what to measure, what this rank counts of it, and sums over parts and ranks."""
