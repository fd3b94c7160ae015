"""Fine-tuning on several processes, and in the precision of accelerate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from layermerge.errors import InputError
from layermerge.finetuning import finetune
from networks import striped_images, tiny_classifier

pytest.importorskip("accelerate", reason="accelerate is not installed")

HERE = Path(__file__).parent
ALONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def train(launch, out, kind, stop=0):
    """Run the training; return what it left, or None if it ended before it was done."""
    command = [*launch, HERE / "train_in_processes.py", out, kind, str(stop)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return torch.load(out) if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pair", "uneven", "ignored"])
def test_two_processes_train_as_one_does(tmp_path, kind):
    """On shares of the same batches; without batch norm, whose statistics would differ."""
    alone, together = (
        train(launch, tmp_path / name, kind) for launch, name in ((ALONE, "one"), (TWO, "two"))
    )
    assert together["processes"] == 2
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_labels_that_all_processes_leave_out_are_told_by_each(tmp_path):
    assert train(TWO, tmp_path / "out", "none") is None
    told = [path.read_text() for path in tmp_path.glob("out.*.txt")]
    assert len(told) == 2
    assert all("all labels of a batch are -100" in each for each in told)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 6])  # of four steps in an epoch
def test_two_processes_that_were_killed_go_on_to_the_same_weights(tmp_path, stop):
    whole = train(TWO, tmp_path / "whole", "loader")
    assert train(TWO, tmp_path / "out", "loader", stop) is None
    assert (tmp_path / "out.ckpt").exists()
    resumed = train(TWO, tmp_path / "out", "loader")
    for name, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], weight)


@pytest.mark.slow
def test_processes_draw_one_order_whatever_else_they_draw(tmp_path):
    train(TWO, tmp_path / "out", "dropout")
    parts = [torch.load(path) for path in tmp_path.glob("out.*.seen")]
    assert len(parts) == 2
    for epoch in range(3):  # of five steps
        steps = slice(5 * epoch, 5 * epoch + 5)
        images = [image for part in parts for step in part[steps] for image in step]
        assert len(images) == len({*images}) == 45


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("loader", 12), ("prepared", 12), ("split", 24)])
def test_every_image_is_seen_in_every_epoch(tmp_path, kind, steps):
    train(TWO, tmp_path / "out", kind)
    parts = [torch.load(path) for path in tmp_path.glob("out.*.seen")]
    assert [len(part) for part in parts] == [steps, steps]
    first_epoch = [image for part in parts for step in part[: steps // 3] for image in step]
    assert len({*first_epoch}) == 64


@pytest.mark.slow
def test_another_number_of_processes_does_not_go_on(tmp_path):
    assert train(TWO, tmp_path / "out", "uneven", 3) is None
    assert train(ALONE, tmp_path / "out", "uneven") is None
    assert "differs in processes (2 there, 1 here)" in (tmp_path / "out.0.txt").read_text()


def test_gradients_that_are_accumulated_are_refused():
    accelerator = SimpleNamespace(prepare=None, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="accumulates gradients over 4 batches"):
        finetune(tiny_classifier(), striped_images(8), accelerator=accelerator)


_CALLBACK = """
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from layermerge.lending import train_in_place
from networks import striped_images, tiny_classifier

images, labels = striped_images(16)

def train(network):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    network, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), 0.01))
    accelerator.backward(F.cross_entropy(network(images), labels))
    optimizer.step()

model, plain = tiny_classifier(), tiny_classifier()
train_in_place("train_fn", train, model)
plain.load_state_dict(model.state_dict())
assert torch.equal(model(images), plain(images))
assert not torch.equal(tiny_classifier()(images), plain(images))
"""


def test_mixed_precision_of_a_callback_ends_with_it():
    subprocess.run([sys.executable, "-c", _CALLBACK], check=True, cwd=HERE)


_MIXED = """
import torch
from accelerate import Accelerator
from layermerge.errors import TrainingError
from layermerge.finetuning import FinetuneSettings, finetune
from networks import striped_images, tiny_classifier

model, plain, data = tiny_classifier(), tiny_classifier(), striped_images(64)
accelerator = Accelerator(cpu=True, mixed_precision="bf16")
finetune(model, data, FinetuneSettings(steps=3), accelerator=accelerator)
plain.load_state_dict(model.state_dict())
assert "forward" not in vars(model)
assert torch.equal(model(data[0]), plain(data[0]))
try:
    finetune(plain, (data[0] * float("nan"), data[1]), accelerator=accelerator)
except TrainingError:
    assert "forward" not in vars(plain)
else:
    raise AssertionError
"""


def test_mixed_precision_of_accelerate_ends_with_the_training():
    # In a process of its own: an accelerator has state that all of a process share.
    subprocess.run([sys.executable, "-c", _MIXED], check=True, cwd=HERE)
