"""What a model is called with on the command line: its own example, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from layermerge.commands.options import example
from layermerge.errors import ExampleError, InputError

if TYPE_CHECKING:
    from torch import nn

    from layermerge.graph import ExampleInputs

DEFAULT_INPUT = (1, 3, 224, 224)


def example_for(
    model: nn.Module, shape: tuple[int, ...] | None, own: ExampleInputs | None
) -> ExampleInputs:
    """An image of the shape that was asked for, in the model's precision, or what it comes with."""
    if shape is None and own is not None:
        return own
    floating = (weight for weight in model.parameters() if weight.is_floating_point())
    image = example(shape or DEFAULT_INPUT)
    return image.to(next(floating, image).dtype)


@contextmanager
def explaining_input(model: nn.Module, name: str) -> Iterator[None]:
    """Say how the command line gives the example, where a model does not run on it."""
    try:
        yield
    except ExampleError as error:
        size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
        made_for = f" ({name} is made for {'x'.join(map(str, size))})" if size else ""
        raise InputError(
            f"{error.problem}. Give another --input SHAPE{made_for}. Where forward takes several "
            "inputs, or another than an image, name a function that returns the model with its "
            "example inputs"
        ) from error
