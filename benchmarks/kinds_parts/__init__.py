"""What `benchmarks/kinds.py` is made of: labels by hand, by source and by effect, and the judge that compares."""
