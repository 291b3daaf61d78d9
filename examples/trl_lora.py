"""Fine-tunes a small model with TRL's SFTTrainer and LoRA: the adapters, and what they add to the weights, have their own curves.

    python examples/trl_lora.py
    tensorboard --logdir runs/trl

Needs ``pip install '.[transformers,tensorboard]' trl peft``, no network and no GPU; half a minute on two cores.
A real model and its tokenizer would come from the Hub; here they are created by the script.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from small_llama import small_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from weibull_monitor import read_history
from weibull_monitor.integrations.transformers import WeibullCallback
from weibull_monitor.report.text.run import summarize


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[0], pad_token=alphabet[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=60, help="optimizer steps (default: 60)")
    parser.add_argument("--output-dir", default="runs/trl", help="where everything goes (default: runs/trl)")
    parser.add_argument("--every-n-steps", type=int, default=20, help="steps between samples (default: 20)")
    parser.add_argument("--report-to", nargs="*", default=["tensorboard"], help="trackers")
    options = parser.parse_args()

    set_seed(0)
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:40]
    trainer = SFTTrainer(
        model=small_llama(),
        processing_class=byte_tokenizer(),
        train_dataset=Dataset.from_list([{"text": file.read_text(errors="ignore")[:2000]} for file in sources]),
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=options.output_dir,
            max_steps=options.max_steps,
            max_length=128,
            per_device_train_batch_size=4,
            learning_rate=2e-3,
            weight_decay=0.1,
            logging_steps=10,
            save_strategy="no",
            report_to=options.report_to or "none",
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
        ),
        callbacks=[WeibullCallback(every_n_steps=options.every_n_steps)],  # the only line for the monitor
    )
    trainer.train()

    print("\n" + summarize(read_history(options.output_dir)))
    print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")


if __name__ == "__main__":
    main()
