"""Scripts with a loop of their own: two or three lines for a `WeibullMonitor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from . import data
from .script import SAMPLING, Add, Replace, Script

IMPORT: Final = "from weibull_monitor import WeibullMonitor"
PLACE: Final = f"{SAMPLING}, output_dir='monitor'"


def _nanogpt(root: Path) -> None:
    data.characters(root / "data" / "python")


NANOGPT = Script(
    name="train.py",
    folder="nanoGPT",
    source="karpathy/nanoGPT",
    host="own loop",
    run=("train.py",),
    arguments=(
        "--device=cpu --compile=False --dtype=float32 --dataset=python --n_layer=3 --n_head=4 --n_embd=64 --block_size=64 "
        "--batch_size=8 --gradient_accumulation_steps=2 --max_iters=38 --lr_decay_iters=38 --warmup_iters=5 --eval_interval=20 "
        "--eval_iters=2 --always_save_checkpoint=True"
    ),
    data=_nanogpt,
    monitor=(
        Add("train.py", "from model import GPTConfig, GPT", IMPORT),
        Add(
            "train.py",
            "checkpoint = None # free up memory",
            "resume = checkpoint['monitor'] if init_from == 'resume' else None",
            before=True,
        ),
        Add(
            "train.py",
            "raw_model = model.module if ddp else model",
            f"monitor = WeibullMonitor(raw_model, optimizer, {PLACE}, resume=resume)",
        ),
        Add("train.py", "'config': config,", "'monitor': monitor.state_dict(),"),
        Add("train.py", "scaler.update()", "monitor.step()"),
        Add("train.py", "if iter_num > max_iters:", "    monitor.close()"),
    ),
    resume="--init_from=resume",
)


def _mingpt(root: Path) -> None:
    (root / "projects" / "chargpt" / "input.txt").write_text(data.text())


MINGPT = Script(
    name="projects/chargpt/chargpt.py",
    folder="minGPT",
    source="karpathy/minGPT",
    host="own loop",
    run=("chargpt.py",),
    within="projects/chargpt",
    path=(".",),
    arguments=(
        "--trainer.max_iters=40 --model.model_type=gpt-nano --data.block_size=64 --trainer.batch_size=16 "
        "--trainer.num_workers=0 --system.work_dir=out"
    ),
    data=_mingpt,
    monitor=(
        Add("mingpt/trainer.py", "from mingpt.utils import CfgNode as CN", IMPORT),
        Add(
            "mingpt/trainer.py",
            "self.optimizer = model.configure_optimizers(config)",
            f"monitor = WeibullMonitor(model, self.optimizer, {PLACE})",
        ),
        Add("mingpt/trainer.py", "self.optimizer.step()", "monitor.step()"),
        Add("mingpt/trainer.py", "if config.max_iters is not None and", "    monitor.close()"),
    ),
)


def _words(root: Path) -> None:
    data.words(root / "word_language_model" / "data" / "python", 28_000)


WORDS = Script(
    name="word_language_model/main.py",
    folder="pytorch-examples",
    source="pytorch/examples",
    host="own loop",
    run=("main.py",),
    within="word_language_model",
    arguments=(
        "--model Transformer --use-optimizer --data data/python --emsize 64 --nhead 4 --nhid 128 --lr 0.001 --epochs 1"
    ),
    data=_words,
    monitor=(
        Add("word_language_model/main.py", "import torch.onnx", IMPORT),
        Add(
            "word_language_model/main.py",
            "optimizer = torch.optim.AdamW(",
            f"monitor = WeibullMonitor(model, optimizer, {PLACE})",
        ),
        Add("word_language_model/main.py", "optimizer.step()", "monitor.step()"),
        Add("word_language_model/main.py", "# Load the best saved model.", "monitor.close()"),
    ),
)

DCGAN = Script(
    name="dcgan/main.py",
    folder="pytorch-examples",
    source="pytorch/examples",
    host="own loop",
    run=("main.py",),
    within="dcgan",
    arguments="--dataset fake --niter 2 --ngf 16 --ndf 16 --batchSize 64 --workers 0 --manualSeed 1",
    data=lambda root: None,
    monitor=(
        Add("dcgan/main.py", "import torchvision.utils as vutils", IMPORT),
        Add(
            "dcgan/main.py",
            "optimizerG = optim.Adam(",
            f"monitors = [WeibullMonitor(netD, optimizerD, name='D', {PLACE}), "
            f"WeibullMonitor(netG, optimizerG, name='G', {PLACE})]",
        ),
        Add("dcgan/main.py", "optimizerD.step()", "monitors[0].step()"),
        Add("dcgan/main.py", "optimizerG.step()", "monitors[1].step()"),
        Add(
            "dcgan/main.py",
            "    # do checkpointing",
            "for monitor in monitors * (epoch + 1 == opt.niter): monitor.close()",
        ),
    ),
)


def _enwik8(root: Path) -> None:
    data.zipped(root / "data" / "enwik8.gz", 92_000_000)


X_TRANSFORMERS = Script(
    name="train_enwik8.py",
    folder="x-transformers",
    source="lucidrains/x-transformers",
    host="own loop, prepared by Accelerate",
    run=("train_enwik8.py",),
    path=(".",),
    arguments="--num_batches 32 --seq_len 64 --generate_length 8 --cpu True",
    data=_enwik8,
    setup=(
        Replace("train_enwik8.py", "dim = 512", "dim = 64"),
        Replace("train_enwik8.py", "depth = 6", "depth = 2"),
        Replace("train_enwik8.py", "heads = 8", "heads = 4"),
    ),
    monitor=(
        Add(
            "train_enwik8.py",
            "from accelerate import Accelerator",
            "from weibull_monitor.integrations.accelerate import AccelerateMonitor",
        ),
        Add("train_enwik8.py", "    # training", f"monitor = AccelerateMonitor(accelerator, model, optim, {PLACE})"),
        Add("train_enwik8.py", "optim.step()", "monitor.step()"),
        Add("train_enwik8.py", "if __name__ == '__main__':", "    monitor.close()\n", before=True),
    ),
    needs=("einops", "einx", "loguru", "fire", "wandb"),
)


def _images(root: Path) -> None:
    data.images(root / "images", classes=4, each=80, size=32)


TIMM = Script(
    name="train.py",
    folder="timm",
    source="huggingface/pytorch-image-models",
    host="own loop, by a hook of the optimizer",
    run=("train.py",),
    path=(".",),
    arguments=(
        "images --model vit_tiny_patch16_224 --img-size 32 "
        "--model-kwargs img_size=32 patch_size=8 depth=3 embed_dim=48 num_heads=3 "
        "--num-classes 4 -b 16 -j 1 --epochs 2 --warmup-epochs 0 --opt adamw --lr 1e-3 --device cpu --output out --no-prefetcher"
    ),
    data=_images,
    monitor=(
        Add("train.py", "from timm import utils", IMPORT),
        Add(
            "train.py",
            "    results = []",
            f"monitor = WeibullMonitor(model, optimizer, {PLACE},\n"
            "    resume={'step': start_epoch * updates_per_epoch} if start_epoch else None)\n"
            "optimizer.register_step_post_hook(lambda *_: monitor.step())",
        ),
        Add("train.py", "# log best metric as tracked by checkpoint saver", "monitor.close()"),
    ),
    resume="--resume out/whole/checkpoint-0.pth.tar --experiment again",
    naming="--experiment",
)


def _clip(root: Path) -> None:
    import json

    towers = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (root / "src" / "open_clip" / "model_configs" / "tiny.json").write_text(json.dumps(towers))


OPEN_CLIP = Script(
    name="src/open_clip_train/main.py",
    folder="open_clip",
    source="mlfoundations/open_clip",
    host="own loop, by a hook of the optimizer",
    run=("-m", "open_clip_train.main"),
    within="src",
    path=("src",),
    arguments=(
        "--dataset-type synthetic --train-num-samples 320 --batch-size 16 --epochs 2 --workers 0 --model tiny --device cpu "
        "--precision fp32 --lr 1e-3 --warmup 5 --logs logs"
    ),
    data=_clip,
    monitor=(
        Add("src/open_clip_train/main.py", "import numpy as np", IMPORT),
        Add(
            "src/open_clip_train/main.py",
            "# determine if this worker should save logs and checkpoints. only",
            f"monitor = WeibullMonitor(task.trainable_module, optimizer, {PLACE},\n"
            "    resume={'step': train_state.global_step} if train_state.global_step else None)\n"
            "optimizer.register_step_post_hook(lambda *_: monitor.step())",
            before=True,
        ),
        Add("src/open_clip_train/main.py", "# run a final sync.", "monitor.close()"),
    ),
    resume="--name again --resume logs/whole/checkpoints/epoch_1.pt",
    naming="--name",
)

LITGPT_MODEL: Final = """
import torch, yaml, dataclasses
from pathlib import Path
from litgpt import GPT, Config
from litgpt.utils import save_config
config = Config(name="pythia-tiny", block_size=128, n_layer=3, n_embd=64, n_head=4, padded_vocab_size=512, vocab_size=512,
                intermediate_size=128)
torch.manual_seed(0)
place = Path("model")
torch.save(GPT(config).state_dict(), place / "lit_model.pth")
save_config(config, place)
"""


def _litgpt(root: Path) -> None:
    data.tokenizer(root / "model")
    data.instructions(root / "said.json", 200)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", LITGPT_MODEL], cwd=root, env=environment, check=True)


LITGPT = Script(
    name="litgpt finetune_full",
    folder="litgpt",
    source="Lightning-AI/litgpt",
    host="own loop, set up by Fabric",
    run=("-m", "litgpt"),
    path=(".",),
    arguments=(
        "finetune_full model --data JSON --data.json_path said.json --data.val_split_fraction 0.1 --data.num_workers 0 "
        "--train.max_steps 40 --train.epochs 20 --train.global_batch_size 4 --train.micro_batch_size 4 --train.save_interval 20 "
        "--train.lr_warmup_steps 5 --train.max_seq_length 96 --precision 32-true --out_dir out --eval.interval 1000 "
        "--eval.max_new_tokens 2 --eval.max_iters 2"
    ),
    data=_litgpt,
    monitor=(
        Add("litgpt/finetune/full.py", "from litgpt.args import", IMPORT, before=True),
        Replace("litgpt/finetune/full.py", '"step_count": 0}', '"step_count": 0, "monitor": None}'),
        Add(
            "litgpt/finetune/full.py",
            "    train_time = time.perf_counter()",
            f'state["monitor"] = WeibullMonitor(model, optimizer, {PLACE}, resume=state["monitor"])',
        ),
        Add("litgpt/finetune/full.py", "optimizer.step()", 'state["monitor"].step()'),
        Add("litgpt/finetune/full.py", "# Final evaluation", 'state["monitor"].close()'),
    ),
    resume="--resume out/step-000020/lit_model.pth",
    needs=("litdata",),
)

LOOPS: Final = (NANOGPT, MINGPT, LITGPT, TIMM, OPEN_CLIP, X_TRANSFORMERS, WORDS, DCGAN)
