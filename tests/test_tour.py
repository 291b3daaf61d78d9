"""The notebook runs from an empty folder, and shows the fault that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="executing the notebook needs nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="executing the notebook needs nbclient and ipykernel")
pytest.importorskip("transformers", reason="needs the transformers extra")
nbformat = pytest.importorskip("nbformat", reason="comes with nbclient")

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"
BROKEN = "model.layers.1.self_attn.q_proj.weight"


def text_of(notebook: object) -> str:
    """All that its cells have put out, pictures aside."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]  # type: ignore[attr-defined]
    texts = [output.get("text", "") + output.get("data", {}).get("text/html", "") for output in outputs]
    return "\n".join(texts)


def test_the_notebook_runs_and_shows_the_alert(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    shown = text_of(notebook)
    assert f"weibull: impossible_change (warning): step 100: {BROKEN}: RMS" in shown
    assert "k at step 0" in shown
    assert (tmp_path / "runs" / "tour" / "weibull" / "history.jsonl").is_file()


def test_the_notebook_is_kept_with_its_output() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    shown = text_of(notebook)
    assert "impossible_change (warning)" in shown
    assert "site-packages" not in shown  # nothing of the machine that it ran on
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    assert TOUR.stat().st_size < 200_000
