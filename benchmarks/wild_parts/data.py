"""Data for foreign scripts, made here: the sources of Python's library as text, random images, small models and tokenizers."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
import random
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@cache
def text(characters: int = 400_000) -> str:
    """The first so many characters of Python's library, ASCII only."""
    parts, length = [], 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        parts.append(file.read_text(encoding="utf-8", errors="ignore").encode("ascii", "ignore").decode())
        length += len(parts[-1])
        if length > characters:
            break
    return "".join(parts)[:characters]


def lines() -> list[str]:
    """The lines of `text` that say something."""
    return [line.strip() for line in text().splitlines() if len(line.split()) > 3]


def characters(folder: Path) -> None:
    """``train.bin``, ``val.bin`` and ``meta.pkl``, as nanoGPT's ``prepare.py`` of a character-level set writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = text()
    alphabet = sorted(set(data))
    index = {c: i for i, c in enumerate(alphabet)}
    numbers = np.array([index[c] for c in data], dtype=np.uint16)
    cut = len(numbers) * 9 // 10
    numbers[:cut].tofile(folder / "train.bin")
    numbers[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(alphabet), "itos": dict(enumerate(alphabet)), "stoi": index}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def words(folder: Path, count: int, held_out: int = 2_000) -> None:
    """``train.txt``, ``valid.txt`` and ``test.txt`` with about so many words."""
    folder.mkdir(parents=True, exist_ok=True)
    said = lines()
    for name, wanted in (("train", count), ("valid", held_out), ("test", held_out)):
        chosen, n = [], 0
        while n < wanted:
            chosen.append(said.pop(0))
            n += len(chosen[-1].split()) + 1
        (folder / f"{name}.txt").write_text("\n".join(chosen))


def zipped(file: Path, size: int) -> None:
    """A gzip file of so many bytes, the text over and over."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = text().encode()
    with gzip.open(file, "wb", compresslevel=1) as out:
        for _ in range(size // len(part) + 1):
            out.write(part)


def images(folder: Path, classes: int, each: int, size: int) -> None:
    """``train/<class>/*.png`` and ``validation/<class>/*.png``, noise of one colour per class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", each), ("validation", 4)):
        for label in range(classes):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = generator.integers(0, 128, (size, size, 3), dtype=np.uint8)
                pixels[..., label % 3] += 64
                Image.fromarray(pixels).save(place / f"{i}.png")


def tokenizer(folder: Path) -> Any:
    """A byte-level BPE of 512 tokens, trained on `text`, saved as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        lines(), trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet)
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=128, **names)
    made.chat_template = (
        "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}<eos>{% endfor %}"
    )
    made.save_pretrained(folder)
    return made


def llama(folder: Path) -> None:
    """A Llama of two layers with random weights, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2)).save_pretrained(
        folder
    )


def bert(folder: Path) -> None:
    """A BERT of two layers with random weights, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=256, pad_token_id=0)
    BertForSequenceClassification(config).save_pretrained(folder)


def rows(file: Path, made: list[dict[str, Any]]) -> None:
    """One JSON object per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in made))


def texts(file: Path, count: int) -> None:
    rows(file, [{"text": line} for line in lines()[:count]])


def preferences(file: Path, count: int) -> None:
    """Prompts with a chosen and a rejected answer: the next line, and the next line backwards."""
    said = lines()
    pairs = list(itertools.pairwise(said))[:count]
    rows(file, [{"prompt": a + " ", "chosen": b, "rejected": b[::-1]} for a, b in pairs])


def pairs(folder: Path, count: int) -> None:
    """``train.jsonl`` and ``validation.jsonl`` with the columns of MRPC."""
    said, chance = lines(), random.Random(0)
    made = []
    for i in range(count):
        same = chance.random() < 0.5
        other = said[i] if same else said[-1 - i]
        made.append({"sentence1": said[i], "sentence2": other, "label": int(same), "idx": i})
    rows(folder / "train.jsonl", made)
    rows(folder / "validation.jsonl", made[:16])


def instructions(file: Path, count: int) -> None:
    """A list of instructions and outputs, as Alpaca has them."""
    said = lines()
    made = [{"instruction": said[i], "input": "", "output": said[i + 1]} for i in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made))


def digits(folder: Path, count: int) -> None:
    """``training.pt`` and ``test.pt`` as Lightning's own MNIST reads them, with random pixels."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for name, n in (("training", count), ("test", 64)):
        pixels = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
        torch.save((pixels, torch.randint(0, 10, (n,), generator=generator)), folder / f"{name}.pt")
