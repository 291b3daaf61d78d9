"""The parts of `benchmarks/gpu.py`, each a module with a ``TITLE`` and ``run(machine, page, budget)``."""
