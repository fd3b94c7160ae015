"""ONNX Runtime: networks as ONNX models, on the CPU or a CUDA device."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from layermerge.errors import InputError, MissingDependencyError
from layermerge.latency.clocks import CpuTimer, SynchronousTimer, Timer, processor_name
from layermerge.latency.onnx_parts import Framed, cut_frames
from layermerge.latency.options import LatencyOptions
from layermerge.latency.placement import Placement
from layermerge.latency.rotation import Call

COPIES = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ELEMENT_TYPES = {  # the numbers that the ONNX standard gives them
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}


class OnnxRuntime:
    """Models exported through `torch.export`, with all of ONNX Runtime's optimisations."""

    copies = COPIES
    repeated_below_ns = math.inf

    def __init__(self, options: LatencyOptions, placement: Placement) -> None:
        try:
            import onnx
            import onnxruntime
            import onnxscript
        except ImportError as error:
            raise MissingDependencyError("ONNX Runtime", "onnx") from error
        self._runtime, self._onnx = onnxruntime, onnx
        self._placement = placement
        self._provider = PROVIDERS[placement.device.type]
        if self._provider not in onnxruntime.get_available_providers():
            raise InputError(
                f"this build of ONNX Runtime has no {self._provider}: choose device='cpu', or "
                "install onnxruntime-gpu in place of onnxruntime"
            )
        if options.channels_last:
            raise InputError(
                "channels_last does not go with backend 'onnxruntime': ONNX has one layout"
            )
        self.version = f"onnxruntime {onnxruntime.__version__}, onnxscript {onnxscript.__version__}"
        self.device = processor_name(placement.device)
        is_cpu = placement.device.type == "cpu"
        self.timer: Timer = CpuTimer() if is_cpu else SynchronousTimer(placement.device)

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of a session, with inputs and outputs in the memory of the device."""
        session = self._runtime.InferenceSession(
            export(module, inputs), self._options(), providers=self._providers()
        )
        return self._bound(session, inputs)

    def prepare_part(
        self, module: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Call, tuple[Any, ...]]:
        """A call of a session that has, on a CPU, images in ONNX Runtime's own layout."""
        if self._placement.device.type != "cpu":
            return self.prepare(module, inputs), inputs
        model = self._optimised(export(Framed(module).eval(), inputs))
        channels = cut_frames(model)
        blocked = tuple(
            _of_channels(value, channels.get(description.name))
            for description, value in zip(model.graph.input, inputs, strict=True)
        )
        options = self._options()
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = self._runtime.InferenceSession(
            model.SerializeToString(), options, providers=self._providers()
        )
        return self._bound(session, blocked), blocked

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        return options

    def _optimised(self, model: bytes) -> Any:
        """A model as ONNX Runtime runs it on this machine."""
        options = self._options()
        with TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            self._runtime.InferenceSession(model, options, providers=self._providers())
            return self._onnx.load(options.optimized_model_filepath)

    def _bound(self, session: Any, inputs: tuple[Any, ...]) -> Call:
        binding = session.io_binding()
        device, index = self._placement.device.type, self._placement.device.index or 0
        for description, value in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_input(
                description.name,
                device,
                index,
                _ELEMENT_TYPES[value.dtype],
                tuple(value.shape),
                value.data_ptr(),
            )
        for description in session.get_outputs():
            binding.bind_output(description.name, device, index)
        return _Session(session, binding, inputs)

    def _providers(self) -> list[Any]:
        if self._placement.device.type == "cpu":
            return [self._provider]
        return [
            (self._provider, {"device_id": self._placement.device.index or 0}),
            PROVIDERS["cpu"],
        ]


class _Session:
    """A session bound to inputs, whose memory it keeps."""

    def __init__(self, session: Any, binding: Any, inputs: tuple[Tensor, ...]) -> None:
        self._session, self._binding, self._inputs = session, binding, inputs

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _of_channels(value: Tensor, channels: int | None) -> Tensor:
    """An image of as many channels as its blocks have; it is itself where they are full."""
    if channels is None or channels == value.size(1):
        return value
    return value.new_zeros(value.size(0), channels, *value.shape[2:])


def export(module: nn.Module, inputs: tuple[Any, ...]) -> bytes:
    """A module as an ONNX model of fixed shapes."""
    with quietly(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out the exporter's remarks about its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
