"""How to train: the settings of a fine-tune."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch

from layermerge.checks import check_seed
from layermerge.errors import InputError
from layermerge.typed import check_types

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_NO_FEATURES = "empty without feature_distillation, which compares them with the teacher's"
_WORDS = ", ".join(DTYPES)


def _check(name: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise InputError(f"{name} must be {expected}, got {value!r}")


@dataclass(frozen=True)
class FinetuneSettings:
    """How to train.

    Attributes
    ----------
    epochs : int
        Passes over the data.
    steps : int, optional
        Stop after so many optimizer steps instead, over as many epochs as that takes.
    batch_size : int
        Used when the data is two tensors.
    optimizer : {"adamw", "sgd"}
        ``sgd`` has a Nesterov momentum of 0.9.
    learning_rate : float
        At its peak: it rises linearly over the `warm_up` part of the steps and falls to 0 along
        half a cosine.
    weight_decay : float
        For weights; biases and norms have none.
    label_smoothing : float
    distillation : float
        Part, 0..1, of the loss that comes from the teacher.
    temperature : float
        Softens the logits that are compared with the teacher's.
    feature_distillation : float
        Weight of the distance between the features of network and teacher, the squared error over
        the square of the teacher's; 0 does without.
    features : tuple of str
        Modules, of the same names in both, whose outputs are those features; by default the one
        that computes the last feature map.
    mixup : float
        Parameter α of the Beta(α, α) distribution by which images and labels of a batch are mixed
        in pairs (Zhang et al., 2018, arXiv:1710.09412); 0 mixes none.
    clip_norm : float, optional
        Largest norm of the gradient; a longer one is scaled down to it.
    ema : float, optional
        Decay, 0..1, of a moving average of the weights, which the model ends up with. After n steps
        it is (1 + n) / (10 + n) at most, so that short trainings forget where they began, too.
    precision : {"fp32", "bf16", "fp16"}
        Of the arithmetic in the forward pass; weights stay as they are. ``fp16`` scales the loss.
    seed : int
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0
    feature_distillation: float = 0.0
    features: tuple[str, ...] = ()
    mixup: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        with suppress(TypeError):  # what is of another type is named below
            self._check_ranges()
        check_types(self)
        check_seed(self.seed)

    def _check_ranges(self) -> None:
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("steps", self.steps, self.steps is None or self.steps >= 1, "at least 1")
        _check("optimizer", self.optimizer, self.optimizer in ("adamw", "sgd"), "adamw or sgd")
        for name in ("learning_rate", "temperature"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "greater than 0")
        for name in ("weight_decay", "mixup", "feature_distillation"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "at least 0")
        clip, ema = self.clip_norm, self.ema
        _check("clip_norm", clip, clip is None or 0 < clip < math.inf, "greater than 0")
        _check("ema", ema, ema is None or 0 < ema < 1, "between 0 and 1, without them")
        wants = bool(self.feature_distillation)
        _check("features", self.features, wants or not self.features, _NO_FEATURES)
        _check("precision", self.precision, self.precision in DTYPES, f"one of {_WORDS}")
        for name in ("warm_up", "label_smoothing", "distillation"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "between 0 and 1")

    @property
    def fingerprint(self) -> str:
        """The settings that have an effect, as text, to name an importance estimator by."""
        settings = asdict(self)
        if not self.feature_distillation:
            del settings["feature_distillation"], settings["features"]
        return json.dumps(settings, sort_keys=True)


DEFAULT_SETTINGS = FinetuneSettings()
