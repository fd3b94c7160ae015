"""Fine-tune a network without norms, with accelerate; run by torchrun or alone.

``train_in_processes.py OUT KIND STOP``: on which data, and after which step the process ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layermerge import checkpoints
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.training_log import Step

out, kind, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
split = DataLoaderConfiguration(split_batches=kind == "split")
accelerator = Accelerator(cpu=True, dataloader_config=split)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
teacher = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
images, labels = torch.randn(64, 1, 8, 8), torch.randint(4, (64,))
if kind == "dropout":  # draws more where a part has more images
    model.insert(3, nn.Dropout(0.3))
    images, labels = images[:45], labels[:45]
if kind in ("ignored", "none"):
    labels[::2] = -100  # all that the first of two processes is given
if kind == "none":
    labels[:] = -100
data = {
    "pair": (images, labels),
    "uneven": [*zip(images.split(7), labels.split(7), strict=True)],
    "ignored": [*zip(images.split(16), labels.split(16), strict=True)],
    "none": [(images, labels)],
    "dropout": (images, labels),
}
loader = DataLoader(TensorDataset(images, labels), 8, shuffle=True)
data |= {"loader": loader, "split": loader}
if kind == "prepared":
    data[kind] = accelerator.prepare(loader)
seen = []
model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()))
settings = FinetuneSettings(
    epochs=3,
    batch_size=9 if kind == "dropout" else 16,
    optimizer="sgd",
    learning_rate=0.05,
    distillation=0.3,
)


class Stopping(list):
    """A history after whose entry the process ends, its state on disk."""

    def append(self, step: Step) -> None:
        if len(self) == stop > 0:
            os._exit(9)
        super().append(step)


checkpoints.EVERY_SECONDS = 0.0
from layermerge import training  # noqa: E402

built = training.Training.__init__


def stopping(self, *arguments):
    built(self, *arguments)
    self.history = Stopping()


training.Training.__init__ = stopping
try:
    finetune(
        model,
        data[kind],
        settings,
        teacher=teacher,
        accelerator=accelerator,
        checkpoint=out.with_suffix(".ckpt"),
    )
except InputError as error:
    out.with_suffix(f".{accelerator.process_index}.txt").write_text(str(error))
    raise
torch.save(seen, out.with_suffix(f".{accelerator.process_index}.seen"))
if accelerator.is_main_process:
    found = {"processes": accelerator.num_processes, "weights": model.state_dict()}
    torch.save(found, out)
