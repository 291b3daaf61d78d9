"""docs/architectures.md agrees with the code: a sample of its rows is generated again and compared."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import transformers

DOCS = Path(__file__).parents[2] / "docs"
SAMPLE = (
    "llama",
    "gpt_neox",
    "falcon",
    "gpt2",
    "gpt_oss",
    "t5",
    "whisper",
    "vit",
    "swin",
    "clip",
    "bert",
)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_the_page_is_not_stale(model_type: str) -> None:
    page = (DOCS / "architectures.md").read_text(encoding="utf-8")
    made_with = re.search(r"of transformers (\d+\.\d+\.\d+\S*)\s", page)
    assert made_with is not None, "the page does not name its version of transformers"
    if made_with[1] != transformers.__version__:
        pytest.skip(f"the page was made with transformers {made_with[1]}, not {transformers.__version__}")
    spec = importlib.util.spec_from_file_location("generate_architectures", DOCS / "generate_architectures.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.row(model_type) in page.splitlines(), "run: python docs/generate_architectures.py"
