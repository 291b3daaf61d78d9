"""Scripts on the Hugging Face `Trainer`, on Lightning and on Accelerate: one callback, or an `AccelerateMonitor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from . import data
from .loops import PLACE
from .script import SAMPLING, Add, Replace, Script

TRANSFORMERS: Final = "from weibull_monitor.integrations.transformers import WeibullCallback"
LIGHTNING: Final = "from weibull_monitor.integrations.lightning import WeibullCallback"
ACCELERATE: Final = "from weibull_monitor.integrations.accelerate import AccelerateMonitor"
CALLBACK: Final = f"callbacks=[WeibullCallback({SAMPLING})],"
TRAINING: Final = (
    "--output_dir out --max_steps 40 --per_device_train_batch_size 4 --learning_rate 1e-3 --logging_steps 10 --save_steps 20 "
    "--use_cpu True --bf16 False --report_to none --seed 0 --dataloader_pin_memory False"
)
RESUME: Final = "--resume_from_checkpoint out/checkpoint-20"
TRL_RESUME: Final = "trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)"
"""TRL's scripts parse the argument and do not pass it on."""


def _texts(root: Path) -> None:
    data.llama(root / "model")
    data.texts(root / "data" / "train.jsonl", 400)


def _preferences(root: Path) -> None:
    data.llama(root / "model")
    data.preferences(root / "data" / "train.jsonl", 400)


def _trl(name: str, trainer: str, make: Any, more: str) -> Script:
    file = f"trl/scripts/{name}.py"
    return Script(
        name=file + (" with LoRA" if "--use_peft" in more else ""),
        folder="trl",
        source="huggingface/trl",
        host="Trainer",
        run=(file,),
        path=(".",),
        arguments=f"--model_name_or_path model --dataset_name data {TRAINING} {more}",
        data=make,
        setup=(Replace(file, "trainer.train()", TRL_RESUME),),
        monitor=(
            Add(file, "from datasets import load_dataset", TRANSFORMERS),
            Add(file, f"trainer = {trainer}(", "    " + CALLBACK),
        ),
        resume=RESUME,
        needs=("trl",),
    )


SFT = _trl("sft", "SFTTrainer", _texts, "--max_length 64")
DPO = _trl(
    "dpo",
    "DPOTrainer",
    _preferences,
    "--max_length 64 --use_peft --lora_r 8 --lora_alpha 16",
)

CLM_FOLDER: Final = "examples/pytorch/language-modeling"
CLM: Final = (
    "--model_name_or_path model --train_file data/train.txt --validation_file data/valid.txt --block_size 64 "
    "--per_device_train_batch_size 4 --per_device_eval_batch_size 4"
)


def _no_telemetry(name: str) -> tuple[Replace, Replace]:
    """transformers 5 has no such function any more."""
    file = f"{CLM_FOLDER}/{name}.py"
    return Replace(file, ", send_example_telemetry", ""), Replace(
        file, f'send_example_telemetry("{name}"', f'print("{name}"'
    )


def _clm(root: Path) -> None:
    data.llama(root / CLM_FOLDER / "model")
    data.words(root / CLM_FOLDER / "data", 12_000, held_out=1_000)


CLM_NO_TRAINER = Script(
    name="language-modeling/run_clm_no_trainer.py",
    folder="transformers",
    source="huggingface/transformers",
    host="Accelerate",
    run=("run_clm_no_trainer.py",),
    within=CLM_FOLDER,
    arguments=f"{CLM} --max_train_steps 40 --learning_rate 1e-3 --output_dir out --checkpointing_steps 20 --seed 0",
    data=_clm,
    setup=(
        Replace(f"{CLM_FOLDER}/run_clm_no_trainer.py", 'from_tf=bool(".ckpt" in args.model_name_or_path),', ""),
        Replace(f"{CLM_FOLDER}/run_clm_no_trainer.py", "DistributedType.TPU", "DistributedType.XLA"),
        *_no_telemetry("run_clm_no_trainer"),
    ),
    monitor=(
        Add(f"{CLM_FOLDER}/run_clm_no_trainer.py", "from accelerate.logging import get_logger", ACCELERATE),
        Add(
            f"{CLM_FOLDER}/run_clm_no_trainer.py",
            "# Train!",
            f"monitor = AccelerateMonitor(accelerator, model, optimizer, {PLACE})\n"
            "accelerator.register_for_checkpointing(monitor)",
        ),
        Add(f"{CLM_FOLDER}/run_clm_no_trainer.py", "optimizer.step()", "monitor.step()"),
        Add(f"{CLM_FOLDER}/run_clm_no_trainer.py", "all_results.json", "monitor.close()", before=True),
    ),
    resume="--resume_from_checkpoint out/step_20",
)

RUN_CLM = Script(
    name="language-modeling/run_clm.py",
    folder="transformers",
    source="huggingface/transformers",
    host="Trainer",
    run=("run_clm.py",),
    within=CLM_FOLDER,
    arguments=f"{CLM} {TRAINING} --do_train",
    data=_clm,
    setup=(
        Replace(f"{CLM_FOLDER}/run_clm.py", "tokenizer=tokenizer,", "processing_class=tokenizer,"),
        Replace(f"{CLM_FOLDER}/run_clm.py", 'from_tf=bool(".ckpt" in model_args.model_name_or_path),', ""),
        Replace(f"{CLM_FOLDER}/run_clm.py", "and not training_args.overwrite_output_dir", ""),
        *_no_telemetry("run_clm"),
    ),
    monitor=(
        Add(f"{CLM_FOLDER}/run_clm.py", "from transformers.testing_utils import CaptureLogger", TRANSFORMERS),
        Add(f"{CLM_FOLDER}/run_clm.py", "trainer = Trainer(", "    " + CALLBACK),
    ),
    resume=RESUME,
)


def _pairs(root: Path) -> None:
    data.bert(root / "examples" / "model")
    data.pairs(root / "examples" / "data", 224)


ACCURACY: Final = (
    "type('Accuracy', (), {'add_batch': lambda self, predictions, references: None, 'compute': lambda self: {}})()"
)
NLP = Script(
    name="examples/complete_nlp_example.py",
    folder="accelerate",
    source="huggingface/accelerate",
    host="Accelerate",
    run=("complete_nlp_example.py",),
    within="examples",
    arguments="--cpu --checkpointing_steps 20 --output_dir out",
    data=_pairs,
    setup=(
        Replace("examples/complete_nlp_example.py", '"bert-base-cased"', '"model"'),
        Replace("examples/complete_nlp_example.py", 'load_dataset("nyu-mll/glue", "mrpc")', 'load_dataset("data")'),
        Replace("examples/complete_nlp_example.py", 'evaluate.load("glue", "mrpc")', ACCURACY),
        Replace("examples/complete_nlp_example.py", "num_warmup_steps=100", "num_warmup_steps=5"),
    ),
    monitor=(
        Add("examples/complete_nlp_example.py", "from datasets import load_dataset", ACCELERATE),
        Add(
            "examples/complete_nlp_example.py",
            "# We need to keep track of how many total steps we have iterated over",
            f"monitor = AccelerateMonitor(accelerator, model, optimizer, {PLACE})\n"
            "accelerator.register_for_checkpointing(monitor)",
            before=True,
        ),
        Add("examples/complete_nlp_example.py", "optimizer.step()", "monitor.step()"),
        Add("examples/complete_nlp_example.py", "accelerator.end_training()", "monitor.close()", before=True),
    ),
    resume="--resume_from_checkpoint out/step_20",
    needs=("evaluate", "sklearn"),
)

LANGUAGE: Final = "examples/pytorch/basics/transformer.py"


def _wikitext(root: Path) -> None:
    folder = root / "examples/pytorch/basics/data"
    data.words(folder, 15_000)
    (folder / "wikitext-2.txt").write_text((folder / "train.txt").read_text())


LIT_TRANSFORMER = Script(
    name="pytorch/basics/transformer.py",
    folder="pytorch-lightning",
    source="Lightning-AI/pytorch-lightning",
    host="Lightning",
    run=("transformer.py",),
    within="examples/pytorch/basics",
    arguments="",
    data=_wikitext,
    setup=(
        Replace(LANGUAGE, "[n - 4000, 2000, 2000]", "[n - 40, 20, 20]"),
        Replace(LANGUAGE, "max_epochs=20", "max_epochs=2, accelerator='cpu'"),
    ),
    monitor=(
        Add(LANGUAGE, "import lightning as L", LIGHTNING),
        Replace(LANGUAGE, "gradient_clip_val=0.25,", f"gradient_clip_val=0.25, {CALLBACK}"),
    ),
)

GAN_FILE: Final = "examples/pytorch/domain_templates/generative_adversarial_net.py"


def _digits(root: Path) -> None:
    data.digits(root / "examples/pytorch/domain_templates/data/MNIST/complete", 5000 + 1280)


GAN = Script(
    name="pytorch/domain_templates/generative_adversarial_net.py",
    folder="pytorch-lightning",
    source="Lightning-AI/pytorch-lightning",
    host="Lightning, manual optimization",
    run=("generative_adversarial_net.py",),
    within="examples/pytorch/domain_templates",
    arguments="",
    data=_digits,
    setup=(
        Replace(GAN_FILE, 'Trainer(accelerator="gpu", devices=1)', 'Trainer(accelerator="cpu", max_epochs=1)'),
        Replace(GAN_FILE, "MNISTDataModule()", "MNISTDataModule(num_workers=0)"),
    ),
    monitor=(
        Add(GAN_FILE, "from lightning.pytorch.trainer import Trainer", LIGHTNING),
        Replace(GAN_FILE, "max_epochs=1)", f"max_epochs=1, callbacks=[WeibullCallback({SAMPLING})])"),
    ),
    environment={"PL_USE_MOCKED_MNIST": "1"},
    needs=("torchvision",),
)

HOSTS: Final = (SFT, DPO, RUN_CLM, CLM_NO_TRAINER, NLP, LIT_TRANSFORMER, GAN)
