"""What the examples train: a small Llama-style model, on text that is on every machine."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


class LibrarySources(torch.utils.data.Dataset):
    """Python's standard library as bytes, cut into windows: real text that is on every machine."""

    def __init__(self, window: int = 128, size: int = 4_000_000) -> None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = b"".join(file.read_bytes() for file in files)[:size]
        self._tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        self._window = window

    def __len__(self) -> int:
        return len(self._tokens) // self._window

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self._tokens[index * self._window : (index + 1) * self._window]
        return {"input_ids": tokens, "labels": tokens}


def small_llama(width: int = 256, blocks: int = 4) -> LlamaForCausalLM:
    """3.4 M parameters, 4 blocks, unless asked otherwise; W_q, W_k, W_v and W_o stored apart; a byte is a token."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)
