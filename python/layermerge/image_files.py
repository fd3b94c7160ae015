"""Images that are read as they are needed, some of which may be damaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from layermerge.errors import InputError
from layermerge.models import load_library
from layermerge.source_files import brief

_log = logging.getLogger(__name__)

FEW, MANY = 10, 1000
"""Unreadable images that are all named, and of how many more one is."""

Sample = tuple[Tensor, Tensor]


class LabelledImages(Dataset["Sample | None"]):
    """Images with class indices; one that cannot be read is None, and is named and counted, once.

    Parameters
    ----------
    labels : sequence of int
    read : callable
        ``read(index)`` gives an RGB image of PIL, or raises what it likes.
    name_of : callable
        ``name_of(index)`` names the image for a message.
    transform : callable
        Makes a tensor of an image.
    """

    def __init__(
        self,
        labels: Sequence[int],
        read: Callable[[int], Any],
        name_of: Callable[[int], str],
        transform: Callable[[Any], Tensor],
    ) -> None:
        self.labels, self.read, self.name_of, self.transform = labels, read, name_of, transform
        self.is_unreadable = torch.zeros(len(labels), dtype=torch.bool)
        self.is_unreadable.share_memory_()  # type: ignore[no-untyped-call]
        """Shared with the workers of data loaders, so that they count together."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample | None:
        try:
            image = self.read(index)
        except Exception as error:  # each decoder raises its own
            self._tell(index, error)
            return None
        return self.transform(image), torch.tensor(self.labels[index])

    def _tell(self, index: int, error: Exception) -> None:
        if self.is_unreadable[index]:
            return
        self.is_unreadable[index] = True
        count = int(self.is_unreadable.sum())
        if count <= FEW or count % MANY == 0:
            _log.warning(
                "%s cannot be read and is left out (%s): %d of %d images so far%s",
                self.name_of(index),
                brief(error),
                count,
                len(self),
                f"; of those to come every {MANY}th is named" if count == FEW else "",
            )


class ImageLoader(DataLoader["Sample | None"]):
    """Batches of those images that can be read."""

    def __init__(
        self, images: Dataset[Sample | None], batch_size: int, workers: int, *, shuffle: bool
    ) -> None:
        super().__init__(
            images,
            batch_size,
            shuffle=shuffle,
            num_workers=min(workers, os.cpu_count() or 1),
            # A last batch of few images gives batch norms poor statistics.
            drop_last=shuffle and len(images) >= batch_size,  # type: ignore[arg-type]
            collate_fn=_collate,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return (batch for batch in super().__iter__() if batch is not None)


def image_folder(
    folder: Path, transform: Callable[[Any], Tensor]
) -> tuple[LabelledImages, list[str]]:
    """The images of ``folder/CLASS``, and the names of the classes in order.

    Raises
    ------
    InputError
        If there are no classes, or there is one without images.
    """
    reader = load_library("torchvision").datasets.folder
    try:
        classes, index_of = reader.find_classes(folder)
        samples = reader.make_dataset(str(folder), index_of, reader.IMG_EXTENSIONS)
    except FileNotFoundError as error:
        held = sorted(path.name for path in folder.iterdir())[:3]
        raise InputError(
            f"{folder} is no folder of classes ({brief(error)}); it holds "
            f"{', '.join(held) or 'nothing'}. Expected {folder}/CLASS/*.jpg, with at least one "
            "image for each class"
        ) from error
    paths = [path for path, _ in samples]
    images = LabelledImages(
        [label for _, label in samples],
        partial(_read, paths),
        paths.__getitem__,
        transform,
    )
    return images, classes


def _read(paths: list[str], index: int) -> Any:
    from PIL import Image

    with Image.open(paths[index]) as image:
        return image.convert("RGB")


def _collate(samples: list[Sample | None]) -> Any:
    readable = [sample for sample in samples if sample is not None]
    return default_collate(readable) if readable else None
