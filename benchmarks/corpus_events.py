"""The ordinary things that happen to the trainings of the corpus.

| event | what happens |
|---|---|
| ``lora`` | adapters of peft are trained, the rest is frozen |
| ``adapters`` | the model is trained before; then adapters of ours are trained, and the rest is frozen |
| ``trained before`` | the model is trained before, with another optimizer |
| ``fine-tuning`` | the model is a published one |
| ``unfreezing`` | all but the last parameters are frozen, then half of them, then none |
| ``frozen embeddings`` | embeddings are not trained |
| ``uniform`` | linear layers begin as PyTorch initialises them |
| ``curriculum`` | from half of the steps on, the bytes of the text are other ones |
| ``other inputs`` | from half of the steps on, inputs that are numbers have the other sign |
| ``larger batches`` | from half of the steps on, batches are four times as large |
| ``accumulation`` | the monitor is called at every fourth step of the optimizer |
| ``micro-batches`` | a step has the gradient of four batches |
| ``autocast`` | the loss is computed in bfloat16 |
| ``resumed`` | at half of the steps, the history and what the monitor knows are lost |
| ``restored`` | at half of the steps, a new monitor goes on with the state of the old one |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from corpus_case import Case
from corpus_families import Batch, Task, build
from torch import Tensor, nn

BEFORE = 150
"""Steps of a training before the training."""


class Adapter(nn.Module):
    """A frozen linear layer and a trained one of rank 8 beside it, which begins at zero."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 8, bias=False)
        self.lora_B = nn.Linear(8, base_layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) + 2.0 * self.lora_B(self.lora_A(x))
        return out


def adapt(model: nn.Module) -> None:
    """Freezes a model and puts adapters beside the linear layers of its blocks."""
    model.requires_grad_(False)
    found = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.search(r"\.\d+\.", name)]
    for name in found:
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, Adapter(model.get_submodule(name)))  # type: ignore[arg-type]


def freeze(model: nn.Module, share: float) -> None:
    """Freezes the first share of the model's parameters, but the last ones."""
    parameters = list(model.parameters())
    for p in parameters:
        p.requires_grad_(True)
    for p in parameters[: int(share * (len(parameters) - 4))]:
        p.requires_grad_(False)


def changed(batch: Batch, event: str) -> Batch:
    """A batch after the data have changed."""
    if event == "curriculum":
        return {name: 255 - t for name, t in batch.items()}
    return {name: -t if t.is_floating_point() else t for name, t in batch.items()}


def _train_before(task: Task) -> None:
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=2e-3)
    random = torch.Generator().manual_seed(99)
    for _ in range(BEFORE):
        optimizer.zero_grad()
        task.loss(task.model, task.batch(random, 8)).backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad()


def prepared(case: Case, make: Callable[[], Task] | None = None) -> Task:
    """The task of a case, of its family or made, with the model in the state that training begins from."""
    torch.manual_seed(case.seed)
    task = make() if make else build(case.family)
    model = task.model
    if case.event == "uniform":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if case.event == "frozen embeddings":
        for name, p in model.named_parameters():
            p.requires_grad_(not re.search(r"emb", name))
    if case.event in ("trained before", "adapters"):
        model.train(case.dropout)
        _train_before(task)
    if case.event == "adapters":
        adapt(model)
    if case.event == "lora":
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", lora_dropout=0.0))
    model = model.to(getattr(torch, case.dtype))
    model.train(case.dropout)
    return replace(task, model=model)
