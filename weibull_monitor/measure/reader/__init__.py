"""A whole model measured at once: what to count, where it lies, over all ranks."""
