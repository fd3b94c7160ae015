"""Merged networks as files that run without their class: torch.export's and ONNX."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.arguments import as_path
from layermerge.batching import Batch
from layermerge.checks import check_number
from layermerge.errors import (
    InputError,
    MissingDependencyError,
    UnsupportedModelError,
    VerificationError,
)
from layermerge.graph import graph_arguments
from layermerge.latency.onnx_runtime import quietly
from layermerge.latency.placement import tensors_of
from layermerge.probing import probe
from layermerge.rewriting import example_tensors, rewriting_of
from layermerge.source_files import brief
from layermerge.verification import is_finite, relative_difference, tolerance_of
from layermerge.whole_files import replacing

BATCH = "batch"
MOST_ONNX_BYTES = 2**31 - 2**20
"""What one ONNX file may hold, less what the graph itself takes."""
_OTHER_BATCH = 3
"""A batch size that is neither one, which exporters treat apart, nor what is exported with."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes
    ----------
    path : pathlib.Path
    runtime : str
        What ran it for the check.
    error : float
        Largest difference from the network in torch, relative to the largest output, on random
        inputs of each batch size that was tried.
    batch_sizes : tuple of int
        Those that were tried: several where the file takes any batch size, else the only one.
    inputs : mapping of str to tuple
        Shape of each input by name; the first dimension is a name where any size will do.
    """

    path: Path
    runtime: str
    error: float
    batch_sizes: tuple[int, ...]
    inputs: Mapping[str, tuple[int | str, ...]]

    @property
    def is_batch_dynamic(self) -> bool:
        """Whether the file takes any batch size."""
        return len(self.batch_sizes) > 1


def export_pt2(
    merged: fx.GraphModule, path: str | Path, *, tolerance: float | None = None
) -> Exported:
    """Write a network for `torch.export.load`, which needs no class, and check it.

    Parameters
    ----------
    merged : torch.fx.GraphModule
        Made by `merge` or `load`; exported as it runs on the CPU.
    path : path
        Such as ``model.pt2``.
    tolerance : float, optional
        Most that the file's outputs may differ, relative to the largest; by default what rounding
        explains in the network's precision.

    Raises
    ------
    UnsupportedModelError
        If torch cannot export the network.
    VerificationError
        If what was written computes something else. It is not left behind.
    """
    subject = _Subject(merged)

    def write(unfinished: Path) -> None:
        torch.export.save(subject.program, unfinished)

    def runner(unfinished: Path) -> Callable[..., Any]:
        loaded: nn.Module = torch.export.load(unfinished).module()
        return loaded

    return _write_checked(
        subject, as_path("path", path), write, runner, f"torch {torch.__version__}", tolerance
    )


def export_onnx(
    merged: fx.GraphModule, path: str | Path, *, tolerance: float | None = None
) -> Exported:
    """Write a network as ONNX; check the file, and run it in ONNX Runtime beside torch.

    Parameters
    ----------
    merged : torch.fx.GraphModule
        Made by `merge` or `load`.
    path : path
        Such as ``model.onnx``.
    tolerance : float, optional
        Most that the outputs may differ, relative to the largest; by default what rounding
        explains in the network's precision.

    Raises
    ------
    MissingDependencyError
        If the extra `onnx` is not installed.
    UnsupportedModelError
        If the network has an operation that cannot be written, or is too large for one file.
    VerificationError
        If ONNX Runtime computes something else than torch. The file is not left behind.
    """
    rewriting_of(merged)
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("ONNX", "onnx") from error
    size = sum(tensor.nbytes for tensor in merged.state_dict().values())
    if size > MOST_ONNX_BYTES:
        raise UnsupportedModelError(
            f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds 2: export to pt2"
        )
    subject = _Subject(merged)

    def write(unfinished: Path) -> None:
        program = torch.onnx.export(
            subject.program, dynamo=True, verbose=False, dynamic_shapes=subject.shapes
        )
        assert program is not None
        program.save(unfinished, external_data=False)
        onnx.checker.check_model(os.fspath(unfinished), full_check=True)

    def runner(unfinished: Path) -> Callable[..., Any]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            os.fspath(unfinished), options, providers=["CPUExecutionProvider"]
        )
        names = [description.name for description in session.get_inputs()]
        return lambda *inputs: [
            torch.from_numpy(output)
            for output in session.run(None, dict(zip(names, map(_numpy, inputs), strict=True)))
        ]

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    return _write_checked(subject, as_path("path", path), write, runner, runtime, tolerance)


class _Subject:
    """A merged network on the CPU, with inputs of its own, as an exported program."""

    def __init__(self, merged: fx.GraphModule) -> None:
        self.specs = rewriting_of(merged).plan.inputs
        self.module = _without_unused_inputs(copy.deepcopy(merged).cpu(), self.names)
        self.batch = self._batch()
        self._is_positive = False
        with torch.no_grad():
            own = self.module(*self.arguments(self.batch.example))
        self._is_positive = not is_finite(own)
        self.batch_sizes: tuple[int, ...] = ()
        self.shapes: tuple[dict[int, Any] | None, ...] | None = None
        with quietly(), torch.inference_mode(False), torch.no_grad():
            self.program = self._export()
        for node in self.program.graph.nodes:  # would name the folders of this machine
            node.meta.pop("stack_trace", None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.specs)

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes by name; `BATCH` in place of a size that is free."""
        return {
            spec.name: (
                (BATCH, *spec.shape[1:])
                if len(self.batch_sizes) > 1 and self._is_batched(spec.shape)
                else spec.shape
            )
            for spec in self.specs
        }

    def arguments(self, size: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of a batch size, in the precision of the network."""
        named = example_tensors(
            self.specs, torch.device("cpu"), seed=seed, is_positive=self._is_positive
        )
        dtype = next(self.module.parameters(), torch.zeros(())).dtype
        resized = probe(named, self.batch, size, seed, is_positive=self._is_positive)
        typed = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in resized.items()
        }
        return tuple(
            value for value in graph_arguments(self.module, typed) if isinstance(value, Tensor)
        )

    def _batch(self) -> Batch:
        """Which input tells the batch size: the first image, or else the first with a dimension."""
        sized = [spec for spec in self.specs if spec.shape]
        images = [spec for spec in sized if len(spec.shape) == 4]
        if not sized:
            return Batch("", 0, 0, 0)
        first = (images or sized)[0]
        return Batch(first.name, 1, 2, first.shape[0])

    def _is_batched(self, shape: tuple[int, ...]) -> bool:
        return bool(shape) and shape[0] == self.batch.example > 0

    def _export(self) -> torch.export.ExportedProgram:
        own = self.batch.example
        try:
            program = self._program(2, dynamic=True)
        except Exception as error:
            _log.info("the batch size is fixed, as torch cannot free it: %s", brief(error))
        else:
            self.batch_sizes = tuple(dict.fromkeys((own, 1, _OTHER_BATCH)))
            return program
        try:
            program = self._program(own, dynamic=False)
        except Exception as error:
            raise UnsupportedModelError(
                f"torch cannot export {type(self.module).__name__}: {brief(error)}"
            ) from error
        self.batch_sizes = (own,)
        self.shapes = None
        return program

    def _program(self, size: int, *, dynamic: bool) -> torch.export.ExportedProgram:
        arguments = self.arguments(size)
        if dynamic:
            free = {0: torch.export.Dim(BATCH)}
            is_batched = [value.dim() > 0 and value.shape[0] == size for value in arguments]
            if not any(is_batched):
                raise ValueError("no input has a batch dimension")
            self.shapes = tuple(free if batched else None for batched in is_batched)
        return torch.export.export(
            self.module, arguments, dynamic_shapes=self.shapes if dynamic else None, strict=False
        )


def _without_unused_inputs(module: fx.GraphModule, names: tuple[str, ...]) -> fx.GraphModule:
    """Leave out what forward could be given and is not, such as options with a default."""
    for node in list(module.graph.nodes):
        if node.op == "placeholder" and node.target not in names and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return module


def _write_checked(
    subject: _Subject,
    path: Path,
    write: Callable[[Path], None],
    runner: Callable[[Path], Callable[..., Any]],
    runtime: str,
    tolerance: float | None,
) -> Exported:
    """Write a file, compare what it computes with the network, and only then give it its name."""
    if tolerance is not None:
        check_number("tolerance", tolerance, least=0)
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: name a file in a folder that exists")
    most = tolerance_of(subject.module) if tolerance is None else tolerance
    with replacing(path) as unfinished:
        try:
            with quietly():
                write(unfinished)
                error = _largest_error(subject, runner(unfinished))
        except OSError:
            raise
        except Exception as failure:
            raise UnsupportedModelError(
                f"{path.name} cannot be made: {brief(failure)}"
            ) from failure
        if not error <= most:
            advice = "Please report this model" if tolerance is None else "Allow more, or none"
            raise VerificationError(
                f"{path.name} computes something else in {runtime} than the network in torch: the "
                f"outputs differ by {error:.1e} of the largest one, expected at most {most:.0e}. "
                f"It was not written. {advice}"
            )
    return Exported(path, runtime, error, subject.batch_sizes, subject.inputs)


@torch.no_grad()
def _largest_error(subject: _Subject, run: Callable[..., Any]) -> float:
    worst = 0.0
    for seed, size in enumerate(subject.batch_sizes):
        arguments = subject.arguments(size, seed)
        expected = tensors_of(subject.module(*arguments))
        actual = tensors_of(run(*arguments))
        if [x.shape for x in expected] != [x.shape for x in actual]:
            return float("inf")
        worst = max(worst, relative_difference(expected, actual))
    return worst


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()
