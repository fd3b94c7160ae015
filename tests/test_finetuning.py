from __future__ import annotations

import math
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from killing import ALWAYS, counting_steps, train_until
from layermerge import SearchSpace, rewrite, trace
from layermerge.checkpoints import Checkpoint
from layermerge.errors import InputError, TrainingError
from layermerge.finetuning import FinetuneSettings, _loader, finetune, score_classification
from layermerge.losses import mixed
from layermerge.plan import original_plan, replace_segment
from layermerge.seeding import seeded
from layermerge.training import Training
from layermerge.weights import load_state
from networks import striped_images, tiny_classifier

IMAGES, LABELS = striped_images(256)
SETTINGS = FinetuneSettings(epochs=4, batch_size=32, learning_rate=1e-2)


def weights_after(settings=SETTINGS, data=(IMAGES, LABELS), **options):
    model = tiny_classifier()
    finetune(model, data, settings, **options)
    return model.state_dict()


def are_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_lowers_the_loss_and_raises_held_out_accuracy(optimizer):
    model, held_out = tiny_classifier(), striped_images(200, seed=1)
    before = score_classification(model, [held_out])
    losses = finetune(model, (IMAGES, LABELS), replace(SETTINGS, optimizer=optimizer))
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    assert score_classification(model, [held_out]) > max(0.85, before + 0.2)


def test_equal_seeds_give_equal_weights():
    assert are_equal(weights_after(), weights_after())


def test_another_seed_gives_other_weights():
    assert not are_equal(weights_after(), weights_after(replace(SETTINGS, seed=1)))


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    weights_after()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_is_left_in_evaluation_mode():
    model = tiny_classifier()
    finetune(model, (IMAGES, LABELS), SETTINGS)
    assert not any(module.training for module in model.modules())


def test_epochs_and_batch_size_decide_the_steps():
    losses = finetune(tiny_classifier(), (IMAGES[:100], LABELS[:100]), SETTINGS)
    assert len(losses) == 4 * (100 // 32)


def test_steps_stop_training_in_the_middle_of_an_epoch():
    losses = finetune(tiny_classifier(), (IMAGES, LABELS), replace(SETTINGS, steps=11))
    assert len(losses) == 11


def test_fewer_images_than_a_batch_are_one_batch():
    losses = finetune(tiny_classifier(), (IMAGES[:5], LABELS[:5]), SETTINGS)
    assert len(losses) == 4


def test_batches_are_taken_as_they_come_in_every_epoch():
    batches = [(IMAGES[:32], LABELS[:32]), (IMAGES[32:48], LABELS[32:48])]
    sizes = []
    model = tiny_classifier()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    finetune(model, batches, replace(SETTINGS, epochs=2))
    assert sizes == [32, 16, 32, 16]


def test_the_learning_rate_rises_and_then_falls_to_nothing(monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self, closure=None: (rates.append(self.param_groups[0]["lr"]), step(self))[1],
    )
    settings = replace(SETTINGS, optimizer="sgd", steps=20, warm_up=0.25, learning_rate=0.1)
    weights_after(settings)
    peak = rates.index(max(rates))
    assert peak == 5
    assert rates[peak] == pytest.approx(0.1)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.005


def test_weight_decay_spares_norms_and_biases():
    model = tiny_classifier()
    gain = model[1].weight
    teacher = tiny_classifier()
    settings = replace(
        SETTINGS, weight_decay=10.0, distillation=1.0, steps=1, warm_up=0.0, optimizer="sgd"
    )
    before = gain.detach().clone()
    finetune(model, (IMAGES, LABELS), replace(settings, learning_rate=1e-6), teacher=teacher)
    assert (gain - before).abs().max() < 5e-6


def test_the_loss_is_cross_entropy_with_smoothed_labels():
    model = tiny_classifier()
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(model.train()(IMAGES), LABELS).item()
    settings = FinetuneSettings(steps=1, batch_size=len(IMAGES), label_smoothing=0.1)
    (loss,) = finetune(tiny_classifier(), (IMAGES, LABELS), settings)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_distillation_loss_is_that_of_hinton():
    model, teacher = tiny_classifier(), tiny_classifier(seed=1)
    logits = model.train()(IMAGES).detach().double().numpy()
    wanted = teacher(IMAGES).detach().double().numpy()
    hard = nn.functional.cross_entropy(torch.tensor(logits), LABELS).item()
    soft = 0.0
    for student, master in zip(logits, wanted, strict=True):
        p, q = (
            [math.exp(v / 3.0) / sum(math.exp(w / 3.0) for w in row) for v in row]
            for row in (master, student)
        )
        soft += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(IMAGES)
    settings = FinetuneSettings(steps=1, batch_size=len(IMAGES), distillation=0.25, temperature=3.0)
    (loss,) = finetune(tiny_classifier(), (IMAGES, LABELS), settings, teacher=teacher)
    assert loss == pytest.approx(0.75 * hard + 0.25 * 9.0 * soft, rel=1e-4)


def dense(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Conv2d(1, 3, 3, padding=1)


def per_pixel(values):
    return values.movedim(1, -1).reshape(-1, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_divergence_of_near_logits_is_exact_in_half_precision(precision):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 1000, generator=generator)
    shift = 0.03 * torch.randn(4, 1000, generator=generator)

    def identity():
        layer = nn.Linear(1000, 1000)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(1000))
            layer.bias.zero_()
        return layer

    teacher = identity().eval()
    student = identity()
    student.bias.data += shift[0]
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    own, wanted = ((features + each).to(kind).double() for each in (shift[0].to(kind), 0.0))
    p, q = (wanted / 2).softmax(1), (own / 2).softmax(1)
    expected = 4.0 * (p * (p / q).log()).sum(1).mean().item()
    settings = FinetuneSettings(steps=1, distillation=1.0, temperature=2.0, precision=precision)
    labels = torch.zeros(4, dtype=torch.long)
    (loss,) = finetune(student, [(features, labels)], settings, teacher=teacher)
    assert loss == pytest.approx(expected, rel=0.05)


def test_half_precision_keeps_small_gradients():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 128, 128, generator=generator)
    labels = torch.randint(3, (4, 128, 128), generator=generator)
    settings = FinetuneSettings(
        steps=1, optimizer="sgd", learning_rate=1.0, weight_decay=0.0, warm_up=0.0
    )
    moved = {}
    for precision in ("fp32", "fp16"):
        model = nn.Sequential(dense(0), nn.ReLU(), nn.Conv2d(3, 3, 1))
        model[2].load_state_dict(
            {"weight": 0.02 * torch.eye(3)[:, :, None, None], "bias": torch.zeros(3)}
        )
        before = model[0].weight.detach().clone()
        finetune(model, [(images, labels)], replace(settings, precision=precision))
        moved[precision] = model[0].weight.detach() - before
    difference = (moved["fp16"] - moved["fp32"]).norm() / moved["fp32"].norm()
    assert difference < 0.05  # 8 without a scale of the loss


@pytest.mark.parametrize("size", [4, 8])
def test_the_loss_of_dense_logits_is_a_mean_over_pixels(size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 1, size, size, generator=generator)
    labels = torch.randint(3, (5, size, size), generator=generator)
    student, teacher = dense(0), dense(1).eval()
    own, wanted = per_pixel(student(images)).double(), per_pixel(teacher(images)).double()
    hard = nn.functional.cross_entropy(own, labels.flatten()).item()
    p, q = (wanted / 2).softmax(1), (own / 2).softmax(1)
    soft = (p * (p / q).log()).sum(1).mean().item()
    settings = FinetuneSettings(steps=1, distillation=0.5, temperature=2.0)
    (loss,) = finetune(student, [(images, labels)], settings, teacher=teacher)
    assert loss == pytest.approx(0.5 * hard + 0.5 * 4.0 * soft, rel=1e-5)


def test_dense_logits_and_labels_that_are_left_out_are_scored():
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = dense(0)
    labels = model(images).argmax(1)
    wrong = (labels + 1) % 3
    wrong[:, :3] = labels[:, :3]
    assert score_classification(model, [(images, wrong)]) == 0.5
    wrong[:, 3:] = -100
    assert score_classification(model, [(images, wrong)]) == 1.0
    right = tiny_classifier()(IMAGES).argmax(1)
    right[5:] = -100
    assert score_classification(tiny_classifier(), [(IMAGES, right)]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, [(IMAGES, LABELS)]), "model must be a Module, got NoneType"),
        ((tiny_classifier(), None), "batches must be pairs of images and labels, got NoneType"),
    ],
)
def test_what_cannot_be_scored_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        score_classification(*arguments)


def test_a_student_learns_from_its_teacher_alone():
    teacher = tiny_classifier(seed=1)
    finetune(teacher, (IMAGES, LABELS), replace(SETTINGS, epochs=8))
    student = tiny_classifier()
    useless = torch.zeros_like(LABELS)
    settings = replace(SETTINGS, distillation=1.0, epochs=8)
    finetune(student, (IMAGES, useless), settings, teacher=teacher)
    assert score_classification(student, [striped_images(200, seed=1)]) > 0.85


def test_the_teacher_is_not_trained():
    teacher = tiny_classifier(seed=1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    weights_after(teacher=teacher)
    assert are_equal(before, teacher.state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_loss_that_is_not_finite_is_an_error_and_ends_in_evaluation_mode():
    model = tiny_classifier()
    images = IMAGES.clone()
    images[0] = math.nan
    with pytest.raises(TrainingError, match=r"loss is nan at step \d+.*lower learning_rate"):
        finetune(model, (images, LABELS), SETTINGS)
    assert not any(module.training for module in model.modules())


def test_nothing_to_train_is_an_error():
    with pytest.raises(InputError, match="nothing to train"):
        finetune(tiny_classifier().requires_grad_(False), (IMAGES, LABELS), SETTINGS)


def test_an_iterator_that_is_used_up_is_an_error():
    batches = iter([(IMAGES[:32], LABELS[:32])])
    with pytest.raises(InputError, match="data holds no batch"):
        finetune(tiny_classifier(), batches, replace(SETTINGS, steps=2))


def test_data_without_a_length_needs_steps():
    with pytest.raises(InputError, match="set `steps`"):
        finetune(tiny_classifier(), iter([(IMAGES, LABELS)]), SETTINGS)


@pytest.mark.parametrize("labels", [LABELS[:-1], LABELS[:0]])
def test_images_and_labels_must_be_as_many(labels):
    with pytest.raises(InputError, match=f"256 images and {len(labels)} labels"):
        finetune(tiny_classifier(), (IMAGES, labels), SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("steps", 0),
        ("batch_size", 0),
        ("optimizer", "adam"),
        ("learning_rate", math.nan),
        ("learning_rate", 0.0),
        ("temperature", 0.0),
        ("weight_decay", -1.0),
        ("label_smoothing", 1.5),
        ("distillation", -0.1),
        ("warm_up", math.nan),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {value!r}"):
        FinetuneSettings(**{name: value})


def test_accuracy_is_the_fraction_of_right_answers():
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(images), 3)

    labels = torch.tensor([1, 1, 0, 1, 2])
    batches = zip(torch.zeros(5, 1).split(2), labels.split(2), strict=True)
    assert score_classification(Constant(), batches) == 3 / 5


def test_scoring_does_not_depend_on_the_batch_size_and_keeps_the_mode():
    model = tiny_classifier().train()
    scores = {
        score_classification(model, zip(IMAGES.split(n), LABELS.split(n), strict=True))
        for n in (1, 7, 256)
    }
    assert len(scores) == 1
    assert model.training


def test_nothing_to_score_on_is_an_error():
    with pytest.raises(InputError, match="there is no image to score the model on"):
        score_classification(tiny_classifier(), iter([]))


FULL_SETTINGS = replace(SETTINGS, mixup=0.2, ema=0.9, clip_norm=1.0)


@pytest.mark.parametrize("step", [3, 8, 11, 16])
@pytest.mark.parametrize("settings", [SETTINGS, FULL_SETTINGS], ids=["plain", "full"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, step, settings):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    data = (IMAGES, LABELS)  # eight steps an epoch
    whole = nn.Sequential(tiny_classifier(), nn.Dropout(0.1))
    losses = finetune(whole, data, settings)
    path = tmp_path / "training.ckpt"
    train_until(step, nn.Sequential(tiny_classifier(), nn.Dropout(0.1)), path, settings, data)
    resumed = nn.Sequential(tiny_classifier(), nn.Dropout(0.1))
    with counting_steps() as taken:
        assert finetune(resumed, data, settings, checkpoint=path) == losses
    assert len(taken) == len(losses) - step
    assert are_equal(whole.state_dict(), resumed.state_dict())
    assert not path.exists()


class Warming(nn.Module):
    """Grows with each step of training, in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.zeros(()), persistent=False)

    def forward(self, images):
        if self.training:
            self.factor += 0.1
        return images * self.factor


def test_a_killed_training_knows_buffers_that_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    path, data = tmp_path / "training.ckpt", (IMAGES, LABELS)
    losses = finetune(nn.Sequential(Warming(), tiny_classifier()), data, SETTINGS)
    train_until(3, nn.Sequential(Warming(), tiny_classifier()), path, SETTINGS, data)
    resumed = nn.Sequential(Warming(), tiny_classifier())
    assert finetune(resumed, data, SETTINGS, checkpoint=path) == losses


def test_a_loader_that_cannot_go_on_exactly_is_told(tmp_path, caplog):
    data = torch.utils.data.TensorDataset(IMAGES, LABELS)
    loader = torch.utils.data.DataLoader(data, 128, num_workers=1, persistent_workers=True)
    settings = replace(SETTINGS, epochs=1)
    finetune(tiny_classifier(), loader, settings)
    assert not caplog.records
    finetune(tiny_classifier(), loader, settings, checkpoint=tmp_path)
    assert "persistent_workers" in caplog.text


@pytest.mark.parametrize("shared", ["all", "a layer", "a buffer"])
def test_a_teacher_that_would_change_with_the_model_is_refused(shared):
    model, teacher = tiny_classifier(), tiny_classifier(1)
    if shared == "all":
        teacher = nn.Sequential(model)
    elif shared == "a layer":
        teacher[0] = model[0]
    else:
        teacher[1].running_mean = model[1].running_mean
    before = deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"the teacher shares '.*' with the model"):
        finetune(model, (IMAGES, LABELS), SETTINGS, teacher=teacher)
    assert are_equal(before, model.state_dict())


def rewritten(keeps_all):
    """A network without an activation: the segment keeps all of its convolutions, or some."""
    model = tiny_classifier()
    network = trace(model, IMAGES[:1])
    candidate = next(
        c
        for c in SearchSpace().enumerate(network).candidates
        if c.end - c.start > 1 and c.kept and (len(c.kept) == c.end - c.start) == keeps_all
    )
    return rewrite(model, replace_segment(network, candidate))


def original(seed=0):
    model = tiny_classifier(seed)
    return rewrite(model, original_plan(trace(model, IMAGES[:1])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": replace(SETTINGS, seed=3)}, r"differs in seed \(0 there, 3 here\): name"),
        (
            {"settings": replace(SETTINGS, epochs=2, learning_rate=0.1)},
            r"epochs \(4 there, 2 here\), learning_rate \(0.01 there, 0.1 here\), steps \(32 there",
        ),
        ({"model": original(seed=1)}, r"differs in plan or weights of the network \(\w+ there"),
        ({"model": rewritten(keeps_all=False)}, r"differs in plan or weights of the network"),
        # All weights are the same, and one activation is gone.
        ({"model": rewritten(keeps_all=True)}, r"differs in plan or weights of the network"),
        ({"teacher": tiny_classifier(seed=2)}, r"differs in teacher \(None there"),
    ],
    ids=["seed", "settings", "weights", "kept layers", "activation", "teacher"],
)
def test_the_state_of_another_training_is_refused(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    path = tmp_path / "training.ckpt"
    train_until(2, original(), path, SETTINGS, (IMAGES, LABELS))
    same = {"model": original(), "settings": SETTINGS}
    with pytest.raises(InputError, match=rf"training\.ckpt is of another training, .*{message}"):
        finetune(data=(IMAGES, LABELS), checkpoint=path, **{**same, **change})
    assert path.exists()


def test_in_a_folder_another_training_begins_anew_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    train_until(2, tiny_classifier(), tmp_path, SETTINGS, (IMAGES, LABELS))
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    settings = replace(SETTINGS, seed=3)
    model = tiny_classifier()
    losses = finetune(model, (IMAGES, LABELS), settings, checkpoint=tmp_path)
    assert losses == finetune(tiny_classifier(), (IMAGES, LABELS), settings)
    (record,) = caplog.records
    assert f"of another plan or other settings, which are left ({kept.name})" in record.message
    assert kept.read_bytes() == content
    caplog.clear()
    finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS, checkpoint=tmp_path)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return IMAGES[index] + float(np.random.randn()), LABELS[index]


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_killed_training_goes_on_in_numpys_normal_numbers(tmp_path, monkeypatch, step):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    path, settings = tmp_path / "training.ckpt", replace(SETTINGS, epochs=2)
    loader = torch.utils.data.DataLoader(Noisy(), 15, shuffle=True)
    losses = finetune(tiny_classifier(), loader, settings)
    train_until(step, tiny_classifier(), path, settings, loader)
    assert finetune(tiny_classifier(), loader, settings, checkpoint=path) == losses


def test_a_damaged_byte_of_a_checkpoint_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    path = tmp_path / "training.ckpt"
    train_until(2, tiny_classifier(), path, SETTINGS, (IMAGES, LABELS))
    content = path.read_bytes()
    expected = finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS)
    told = []
    for offset in range(17, len(content), len(content) // 60):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 64]) + content[offset + 1 :])
        try:
            losses = finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS, checkpoint=path)
        except InputError as error:
            told.append(str(error))
        else:  # between the records there is nothing
            assert losses == expected
    assert len(told) > 20
    assert all("cannot be read as a checkpoint" in each for each in told)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "training.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"training\.ckpt cannot be read as a checkpoint"):
        finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS, checkpoint=path)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    path = tmp_path / "training.ckpt"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="is not a checkpoint of this version"):
        finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS, checkpoint=path)


def test_a_checkpoint_where_none_can_be_written_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    with pytest.raises(InputError, match="cannot be written"):
        finetune(
            tiny_classifier(), (IMAGES, LABELS), SETTINGS, checkpoint=tmp_path / "none" / "a.ckpt"
        )


def test_weights_of_another_network_are_named():
    weights = tiny_classifier().state_dict()
    (first, *_), last = weights, list(weights)[-1]
    weights["extra.weight"] = weights.pop(first)
    weights[last] = torch.zeros(7)
    message = (
        f"run is of another network: it lacks {first}; has unexpected extra.weight; has {last}"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        load_state(tiny_classifier(), weights, "run")


def test_averaged_weights_are_those_of_the_formula():
    settings = replace(SETTINGS, steps=6, ema=0.25, optimizer="sgd")
    history = []
    for steps in range(1, 7):
        # The schedule is over all steps: stop early instead of asking for fewer.
        model = tiny_classifier()
        training = Training(model, replace(settings, ema=None), 6, None, None)
        with seeded(settings.seed):
            run = training.run(_loader((IMAGES, LABELS), settings.batch_size, settings.seed))
            for _ in range(steps):
                next(run)
        history.append(model.state_dict()["0.weight"].clone())
    averaged = tiny_classifier()
    finetune(averaged, (IMAGES, LABELS), settings)
    expected = history[0]  # the average starts at the weights of the first step
    for decay, weights in zip((2 / 11, 3 / 12, 0.25, 0.25, 0.25), history[1:], strict=True):
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(averaged.state_dict()["0.weight"], expected)


def test_an_average_counts_what_is_counted():
    model = tiny_classifier()
    finetune(model, (IMAGES, LABELS), replace(SETTINGS, steps=12, ema=0.9))
    assert model[1].num_batches_tracked == 12


def test_a_short_training_forgets_where_its_average_began():
    def accuracy(settings):
        model = tiny_classifier()
        finetune(model, (IMAGES, LABELS), settings)
        return score_classification(model, [striped_images(200, seed=1)])

    assert accuracy(replace(SETTINGS, ema=0.999)) > accuracy(SETTINGS) - 0.05


BATCH = (torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data must be images and labels as two tensors, or batches of them, got NoneType"),
        (BATCH[0], "data must be images and labels as two tensors, or batches of them, got Tensor"),
        ({"a": BATCH}, "data must be images and labels .*, got dict"),
        ([BATCH[0]], "a batch of data must be a pair of images and labels, got tensor"),
        ([(*BATCH, 1)], "a batch of data must be a pair of images and labels, got 3 values"),
        ([(BATCH[0], [0, 1, 2, 0])], "labels of data must be a tensor, got list"),
        ((BATCH[0], BATCH[1][:3]), "there are 4 images and 3 labels; expected as many of both"),
        ([(BATCH[0], BATCH[1] - 1)], r"labels are -1\.\.-1, and the model computes 3 classes"),
        ([BATCH, (BATCH[0], BATCH[1] + 3)], r"labels are 3\.\.3, .* expected indices 0\.\.2"),
        ([(BATCH[0], BATCH[1].float())], r"labels are float32 of shape \(4,\): expected an index"),
        ([(BATCH[0], torch.eye(4, 3, dtype=torch.long))], r"int64 of shape \(4, 3\): .* as floats"),
    ],
)
def test_data_that_are_no_labelled_images_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        finetune(tiny_classifier(), data, SETTINGS)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_train_alike(kind):
    assert are_equal(weights_after(data=(IMAGES, LABELS.to(kind))), weights_after())
    assert are_equal(weights_after(data=[IMAGES, LABELS]), weights_after())


def test_labels_may_be_probabilities_and_some_ignored():
    shares = torch.nn.functional.one_hot(LABELS, 3).float()
    assert score_after((IMAGES, shares)) > 0.85
    some = LABELS.masked_fill(torch.arange(len(LABELS)) % 4 == 0, -100)
    assert score_after((IMAGES, some)) > 0.85


def score_after(data):
    model = tiny_classifier()
    finetune(model, data, SETTINGS)
    return score_classification(model, [striped_images(200, seed=1)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": None}, "settings must be a FinetuneSettings, got NoneType"),
        ({"teacher": "resnet"}, "teacher must be a Module, got str"),
        ({"progress": "x"}, "progress must be True or False, got 'x'"),
        ({"checkpoint": 3}, "checkpoint must be a path"),
        ({"checkpoint": "/nonesuch/a.ckpt"}, "checkpoint /nonesuch/a.ckpt cannot be written"),
    ],
)
def test_arguments_of_another_type_are_refused_before_a_step(wrong, message):
    model = tiny_classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        finetune(model, (IMAGES, LABELS), **wrong)
    assert are_equal(before, model.state_dict())


def test_a_model_that_computes_no_logits_is_named():
    class Pairs(nn.Linear):
        def forward(self, images):
            return super().forward(images), images

    with pytest.raises(InputError, match="the model computes tuple: expected logits"):
        finetune(Pairs(4, 3), (torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)))


def test_gradients_are_clipped_to_their_norm(monkeypatch):
    norms = []
    step = torch.optim.SGD.step

    def watched(self, closure=None):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    weights_after(replace(SETTINGS, optimizer="sgd", clip_norm=0.05, steps=5))
    assert max(norms) <= 0.05 * (1 + 1e-4)


def test_mixed_images_and_labels_are_mixed_alike():
    labels = torch.arange(64)
    images = labels.float().reshape(64, 1, 1, 1).expand(64, 1, 4, 4)
    torch.manual_seed(0)
    share, blended, others = mixed(images, labels, 0.4)
    expected = share * labels + (1 - share) * others
    torch.testing.assert_close(blended[:, 0, 0, 0], expected.float())
    assert sorted(others.tolist()) == labels.tolist()


def test_mixing_changes_the_training():
    assert not are_equal(weights_after(), weights_after(replace(SETTINGS, mixup=0.4)))


def test_bfloat16_arithmetic_trains_weights_of_full_precision():
    model = tiny_classifier()
    finetune(model, (IMAGES, LABELS), replace(SETTINGS, precision="bf16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not are_equal(model.state_dict(), weights_after())
    assert score_classification(model, [striped_images(200, seed=1)]) > 0.85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixup": -1.0}, "mixup must be at least 0"),
        ({"clip_norm": 0.0}, "clip_norm must be greater than 0"),
        ({"ema": 1.0}, "ema must be between 0 and 1"),
        ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16, got 'int8'"),
    ],
)
def test_further_bad_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1.5}, "steps must be whole numbers or null, got 1.5"),
        ({"epochs": "3"}, "epochs must be whole numbers, got '3'"),
        ({"epochs": True}, "epochs must be whole numbers, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be numbers, got '0.1'"),
        ({"mixup": None}, "mixup must be numbers, got None"),
        ({"seed": 1.5}, "seed must be whole numbers, got 1.5"),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FinetuneSettings(**settings)


FewerThanABatch = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(IMAGES[:8], LABELS[:8]), 16, drop_last=True
)


class Unsure(nn.Module):
    def forward(self, images):
        return torch.full((len(images), 3), torch.nan)


class Sizes(nn.Module):
    def forward(self, images):
        return {"logits": images}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher": nn.Sequential(nn.Conv2d(1, 5, 8), nn.Flatten())},
            r"the teacher computes \(32, 5\) where the model computes \(32, 3\)",
        ),
        ({"teacher": Sizes()}, "the teacher computes dict where the model"),
        ({"teacher": Unsure()}, "the teacher computes NaN or infinite values at step 1"),
        ({"teacher": nn.Conv2d(3, 3, 8)}, "the teacher fails on the first batch, images of shape"),
        (
            {"teacher": nn.Sequential(nn.BatchNorm2d(1))},
            "batch norm '0' of the teacher is in training mode",
        ),
        ({"data": (IMAGES.to(torch.uint8), LABELS)}, "the model fails on the first batch, .*uint8"),
        ({"data": (IMAGES.double(), LABELS)}, "the model fails on the first batch, .*float64"),
        ({"data": [(IMAGES, torch.tensor(1))]}, "labels of data must be one for each image"),
        ({"data": [(torch.tensor(1.0), LABELS)]}, "images of data must be one for each image"),
        ({"data": [(IMAGES, torch.full_like(LABELS, -100))]}, "all labels of a batch are -100"),
        (
            {"data": [(IMAGES, LABELS), (IMAGES, LABELS.float())]},
            r"labels are float32 of shape \(256,\): expected an index of 3 classes",
        ),
        (
            {"data": [(IMAGES, torch.ones(256, 3))]},
            "must be probabilities, at least 0 and 1 in sum",
        ),
        ({"checkpoint": "a\0b"}, "checkpoint must be a path, got 'a.x00b', which holds a zero"),
        ({"log": 4}, "log must be a path, text or pathlib.Path, got int"),
        ({"tensorboard": 4}, "tensorboard must be a path, text or pathlib.Path, got int"),
        ({"log": "run/a", "checkpoint": "run/a"}, "checkpoint and log are both run/a"),
        ({"data": []}, "data holds no batch"),
        ({"data": FewerThanABatch}, "data holds no batch .does a loader that drops its last"),
        ({"accelerator": 3}, "accelerator must be an accelerate.Accelerator, got 3"),
    ],
)
def test_what_cannot_be_trained_with_is_named(change, message):
    arguments = {"data": (IMAGES, LABELS), **change}
    with pytest.raises(InputError, match=message):
        finetune(tiny_classifier(), settings=SETTINGS, **arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_log_without_space_is_named():
    with pytest.raises(InputError, match="log /dev/full cannot be written: No space"):
        finetune(tiny_classifier(), (IMAGES, LABELS), SETTINGS, log="/dev/full")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_gradient_mode_around_it(mode):
    model = tiny_classifier()
    with mode():
        finetune(model, (IMAGES, LABELS), SETTINGS)
    assert are_equal(model.state_dict(), weights_after())


def loader_of_its_own():
    data = torch.utils.data.TensorDataset(IMAGES, LABELS)
    generator = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(data, 32, shuffle=True, generator=generator)


@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_loader_with_a_generator_of_its_own_goes_on_exactly(tmp_path, monkeypatch, step):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    whole, path = tiny_classifier(), tmp_path / "training.ckpt"
    losses = finetune(whole, loader_of_its_own(), SETTINGS)
    train_until(step, tiny_classifier(), path, SETTINGS, loader_of_its_own())
    resumed = tiny_classifier()
    assert finetune(resumed, loader_of_its_own(), SETTINGS, checkpoint=path) == losses
    assert are_equal(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES, LABELS), r"differs in kind of data \(DataLoader there, _ShuffledBatches here"),
        (
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), 32),
            "draws from 0 generators of its own, and drew from 1",
        ),
        (
            torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(IMAGES[:64], LABELS[:64]),
                32,
                shuffle=True,
                generator=torch.Generator(),
            ),
            "holds fewer batches than the 3 that were seen",
        ),
    ],
)
def test_a_training_does_not_go_on_with_other_data(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    settings, path = replace(SETTINGS, steps=8), tmp_path / "training.ckpt"
    train_until(3, tiny_classifier(), path, settings, loader_of_its_own())
    with pytest.raises(InputError, match=message):
        finetune(tiny_classifier(), data, settings, checkpoint=path)
    assert path.exists()
