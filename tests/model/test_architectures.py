"""docs/architectures.md is what the code says: a sample of its lines is made anew and compared."""

from __future__ import annotations

import importlib.util
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
    "deepseek_v3",
    "qwen3_next",
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
    if f"transformers {transformers.__version__} " not in page:
        pytest.skip(f"the page was made with another version of transformers than {transformers.__version__}")
    spec = importlib.util.spec_from_file_location("generate_architectures", DOCS / "generate_architectures.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.row(model_type) in page.splitlines(), "run: python docs/generate_architectures.py"
