"""Ready data for classification: to train on, to estimate importance on, to test on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from layermerge.errors import InputError, MissingDependencyError

Batches = Iterable[tuple[Tensor, Tensor]]

DIGITS_SIZE = 32
_NUM_TRAIN, _NUM_VALIDATION = 1100, 247
_COPIES = 4


@dataclass(frozen=True)
class Dataset:
    """Labelled images in three parts that share no original image.

    Attributes
    ----------
    name : str
    train : iterable of (images, labels)
        Iterated anew for each epoch, it may augment anew each time.
    validation, test : iterable of (images, labels)
        Fixed. Importance is estimated on the first; results are reported on the second.
    num_classes : int
    """

    name: str
    train: Batches
    validation: Batches
    test: Batches
    num_classes: int


@dataclass(frozen=True)
class _Digits:
    """Batches of randomly transformed digits; each iteration transforms anew."""

    images: Tensor
    labels: Tensor
    batch_size: int
    noise: float

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images))
        images = distort(self.images[order], self.noise)
        for place in range(len(self)):
            batch = slice(place * self.batch_size, (place + 1) * self.batch_size)
            yield images[batch], self.labels[order[batch]]


def load_digits(*, batch_size: int = 64, noise: float = 0.4, seed: int = 0) -> Dataset:
    """Load scikit-learn's handwritten digits, up-sampled to 32x32 and made hard.

    Each of the 1797 real 8x8 scans is rotated, scaled, sheared and shifted at random, and covered
    with noise. Validation and test hold four distorted copies of each of their scans.

    Parameters
    ----------
    batch_size : int
        Of the training batches.
    noise : float
        Standard deviation of the noise; ink is 1, paper 0.
    seed : int
        Of the split, and of the distortions of validation and test.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "demo") from error
    scans = load()
    images = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear")
    labels = torch.tensor(scans.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(images))
        train, validation, test = order.tensor_split([_NUM_TRAIN, _NUM_TRAIN + _NUM_VALIDATION])
        return Dataset(
            "digits",
            _Digits(images[train], labels[train], batch_size, noise),
            _distorted_copies(images[validation], labels[validation], noise),
            _distorted_copies(images[test], labels[test], noise),
            10,
        )


def distort(images: Tensor, noise: float) -> Tensor:
    """Rotate (34 degrees at most), scale, shear and shift each image at random; add noise."""
    count = len(images)
    angle, shear, shift_x, shift_y = (
        limit * (2 * torch.rand(count) - 1) for limit in (0.6, 0.4, 0.25, 0.25)
    )
    scale = 0.75 + 0.5 * torch.rand(count)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrices = torch.stack(
        [torch.stack([cos, shear - sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1
    )
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved + noise * torch.randn(moved.shape)


def _distorted_copies(images: Tensor, labels: Tensor, noise: float) -> Batches:
    copies = torch.cat([distort(images, noise) for _ in range(_COPIES)])
    return list(
        zip(torch.split(copies, 256), torch.split(labels.repeat(_COPIES), 256), strict=True)
    )


def load_image_folder(
    directory: str | Path, *, size: int = 224, batch_size: int = 64, workers: int = 2
) -> Dataset:
    """Load images from ``DIR/train/CLASS`` and ``DIR/val/CLASS``, as ImageNet is kept.

    Half of ``val``, every second image, estimates importance; the other half is the test.

    Parameters
    ----------
    directory : path
    size : int
        Height and width of the images, normalised as for ImageNet.
    batch_size, workers : int
        Of the data loaders.
    """
    folder = Path(directory)
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder} has no folder {part!r}: expected {folder}/train/CLASS/*.jpg and "
                f"{folder}/val/CLASS/*.jpg"
            )
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise MissingDependencyError("torchvision", "models") from error
    normalise = [
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    augment = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *normalise]
    centre = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), *normalise]
    train = datasets.ImageFolder(folder / "train", transforms.Compose(augment))
    held_out = datasets.ImageFolder(folder / "val", transforms.Compose(centre))
    halves = [torch.utils.data.Subset(held_out, range(i, len(held_out), 2)) for i in (0, 1)]

    def loader(images: torch.utils.data.Dataset[tuple[Tensor, Tensor]], shuffle: bool) -> Batches:
        return torch.utils.data.DataLoader(
            images, batch_size, shuffle=shuffle, num_workers=workers, drop_last=shuffle
        )

    return Dataset(
        str(folder),
        loader(train, True),
        loader(halves[0], False),
        loader(halves[1], False),
        len(train.classes),
    )
