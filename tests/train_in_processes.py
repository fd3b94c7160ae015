"""Fine-tune a network without norms, with accelerate; run by `accelerate launch` or alone."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch import nn

from layermerge.finetuning import FinetuneSettings, finetune

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
images, labels = torch.randn(64, 1, 8, 8), torch.randint(4, (64,))
finetune(
    model,
    (images, labels),
    FinetuneSettings(epochs=3, batch_size=16, optimizer="sgd", learning_rate=0.05),
    accelerator=accelerator,
)
if accelerator.is_main_process:
    found = {"processes": accelerator.num_processes, "weights": model.state_dict()}
    torch.save(found, sys.argv[1])
