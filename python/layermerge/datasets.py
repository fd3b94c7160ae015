"""Ready data for classification: to train on, to estimate importance on, to test on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermerge.arguments import as_path
from layermerge.errors import InputError, MissingDependencyError, shown
from layermerge.image_files import ImageLoader, LabelledImages, Sample, image_folder
from layermerge.models import load_library

Batches = Iterable[tuple[Tensor, Tensor]]

DIGITS_SIZE, IMAGE_SIZE = 32, 224
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
    directory: str | Path, *, size: int = IMAGE_SIZE, batch_size: int = 64, workers: int = 2
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
    folder = as_path("directory", directory)
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder} has no folder {part!r}: expected {folder}/train/CLASS/*.jpg and "
                f"{folder}/val/CLASS/*.jpg"
            )
    augment, centre = _image_transforms(size)
    train, classes = image_folder(folder / "train", augment)
    held_out, others = image_folder(folder / "val", centre)
    _check_same_classes(folder, classes, others)
    validation, test = _halves(held_out, f"{folder}/val")
    return Dataset(
        str(folder),
        ImageLoader(train, batch_size, workers, shuffle=True),
        ImageLoader(validation, batch_size, workers, shuffle=False),
        ImageLoader(test, batch_size, workers, shuffle=False),
        len(classes),
    )


def _check_same_classes(folder: Path, classes: list[str], others: list[str]) -> None:
    for name in sorted(set(classes).symmetric_difference(others)):
        has, lacks = ("train", "val") if name in classes else ("val", "train")
        raise InputError(
            f"{folder} has the class {name!r} in {has} and not in {lacks}: expected the same "
            "classes in both"
        )


def _halves(images: LabelledImages, name: str) -> list[torch.utils.data.Subset[Sample | None]]:
    """Every second image, from the first and from the second on."""
    if len(images) < 2:
        raise InputError(
            f"{name} holds {len(images)} image: expected at least two, for one half estimates "
            "importance and the other is the test"
        )
    return [torch.utils.data.Subset(images, range(first, len(images), 2)) for first in (0, 1)]


def load_hub_dataset(
    path: str,
    *,
    label: str | None = None,
    size: int = IMAGE_SIZE,
    batch_size: int = 64,
    workers: int = 2,
) -> Dataset:
    """Load labelled images with the Hugging Face `datasets` library.

    Half of the held-out split, every second image, estimates importance; the other half is the
    test.

    Parameters
    ----------
    path : str
        A folder of `DatasetDict.save_to_disk`, a folder or name that `datasets.load_dataset` takes.
        It has a split "train" and one of "validation" and "test", with a column of images and one
        of class labels.
    label : str, optional
        The column of class labels, where there are several.
    size : int
        Height and width of the images, normalised as for ImageNet.
    batch_size, workers : int
        Of the data loaders.
    """
    splits = _hub_splits(path)
    held_out = next((splits[name] for name in ("validation", "test") if name in splits), None)
    if "train" not in splits or held_out is None:
        raise InputError(
            f"{path} has the splits {sorted(splits)}; expected 'train', and 'validation' or 'test'"
        )
    image = _hub_column(path, splits["train"], "Image")
    label = _hub_column(path, splits["train"], "ClassLabel", label)
    classes = splits["train"].features[label].names
    augment, centre = _image_transforms(size)
    train, held_out = (
        LabelledImages(
            _hub_labels(path, rows, label, classes),
            partial(_row_image, rows, image),
            f"{path}, row {{}}".format,
            transform,
        )
        for rows, transform in ((splits["train"], augment), (held_out, centre))
    )
    validation, test = _halves(held_out, path)
    return Dataset(
        path,
        ImageLoader(train, batch_size, workers, shuffle=True),
        ImageLoader(validation, batch_size, workers, shuffle=False),
        ImageLoader(test, batch_size, workers, shuffle=False),
        len(classes),
    )


def _row_image(rows: Any, column: str, index: int) -> Any:
    return rows[index][column].convert("RGB")


def _hub_splits(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("Hugging Face datasets", "hub") from error
    try:
        if (Path(path) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)
        if (Path(path) / "state.json").is_file():
            raise InputError(
                f"{path} is one split, of Dataset.save_to_disk: save a DatasetDict of 'train' and "
                "'validation' or 'test'"
            )
        return datasets.load_dataset(path)
    except InputError:
        raise
    except Exception as error:  # the library raises its own, those of the network and of files
        raise InputError(
            f"--data hf:{path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _hub_column(path: str, split: Any, kind: str, wanted: str | None = None) -> str:
    """The name of the one column of a kind, or of that which is wanted."""
    found = [name for name, feature in split.features.items() if type(feature).__name__ == kind]
    if wanted is not None and wanted not in found:
        raise InputError(
            f"{path} has the columns {dict(split.features)}, of which {wanted!r} is none of class "
            "labels (feature ClassLabel)"
        )
    if not found:
        raise InputError(
            f"{path} has the columns {dict(split.features)}; expected one of images and one of "
            "class labels (features Image and ClassLabel)"
        )
    if wanted is None and len(found) > 1:
        advice = {
            "ClassLabel": f"choose one: hf:{path}#{found[0]}, or in Python label={found[0]!r}",
            "Image": "expected one; make a Dataset of your own of it (FILE.py:FUNCTION)",
        }
        raise InputError(
            f"{path} has several columns of feature {kind}, {', '.join(found)}: {advice[kind]}"
        )
    return wanted or found[0]


def _hub_labels(path: str, rows: Any, column: str, classes: list[str]) -> list[int]:
    """The class of each row, as an index of `classes`: a split may have them in another order."""
    feature = rows.features.get(column)
    own = getattr(feature, "names", None)
    if own is None or {*own} != {*classes}:
        raise InputError(
            f"{path} has the classes {shown(repr(own))} in column {column!r} of its held-out "
            f"split, and {shown(repr(classes))} in 'train': expected the same classes in both"
        )
    place = [classes.index(name) for name in own]
    labels = list(rows[column])
    for row, each in enumerate(labels):
        if each is None or not 0 <= each < len(own):
            raise InputError(
                f"{path}, row {row} has the label {each} in column {column!r}, which is none of "
                f"its {len(own)} classes: leave such rows out (`filter` of the datasets library)"
            )
    return [place[each] for each in labels]


def _image_transforms(size: int) -> tuple[Callable[[Any], Tensor], Callable[[Any], Tensor]]:
    """To train with, and to evaluate with: those of timm, for ImageNet."""
    load_library("torchvision")
    create_transform = load_library("timm").data.create_transform
    return (
        create_transform(size, is_training=True),
        create_transform(size, is_training=False, crop_pct=0.875),
    )
