"""The pictures of the documentation, and the trainings that they show; ``docs/generate_pictures.py`` draws them."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "examples"), str(ROOT / "benchmarks")]
