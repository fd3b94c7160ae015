"""Capture a torch model as a data-flow graph, checked against the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.batching import Batch, MismatchError, unify
from layermerge.borrowing import copy_borrowing_weights, giving_back
from layermerge.containers import UnrecordableError
from layermerge.errors import InputError, UnsupportedModelError
from layermerge.graph_writer import Recording
from layermerge.model_checks import check_model, why_not_copied
from layermerge.probing import first_that_runs, keeping_buffers, probe
from layermerge.recording import record

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]

_MOST_OPAQUE = 64
"""How many modules may turn out not to be recordable before the model is refused."""


def capture(
    model: nn.Module, example_inputs: ExampleInputs, *, borrow_weights: bool = False
) -> fx.GraphModule:
    """Capture a copy of `model` as a graph whose leaves are its own modules.

    The model is run, and what it does is recorded (`layermerge.recording`), twice: at different
    batch sizes and on different values, so that what depends on them is found. The captured model
    runs at any batch size that the model runs at; other sizes, and arguments that the example
    leaves out, are fixed.

    Operations that work in place become their out-of-place twins, so that any of them can be
    removed, and have one spelling (`layermerge.canonical`). Each node's ``meta["shape"]`` is the
    shape it has on the example, ``meta["owner"]`` the path of the module whose forward it is from.
    A module that cannot be recorded stays whole, with the reason in ``meta["opaque_reason"]``.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.
    example_inputs : tensor, tuple or dict
        What `model` is called with, on the model's device.
    borrow_weights : bool
        Whether the capture shows the parameters of `model` instead of copies of them, for callers
        that only read.

    Returns
    -------
    torch.fx.GraphModule
        With the same parameter names as `model`.

    Raises
    ------
    InputError
        If the model is no module or in training mode, or does not run on the example.
    UnsupportedModelError
        If the model cannot be captured, or the capture computes something else.
    """
    check_model(model)
    arguments = bind_inputs(model, example_inputs)
    _check_devices(model, arguments)
    devices = {value.device for value in arguments.values() if value.device.type == "cuda"}
    # Parameters copied in inference mode could never be trained.
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
        if borrow_weights:
            with giving_back(model):
                captured = _capture(_copy(model, copy_borrowing_weights), arguments)
        else:
            captured = _capture(_copy(model, copy.deepcopy), arguments)
    _check_batched(captured)
    _check_visible(captured)
    return captured


def bind_inputs(model: nn.Module, example_inputs: ExampleInputs) -> dict[str, Any]:
    """Name each example input by the forward argument that receives it."""
    parameters = inspect.signature(model.forward).parameters
    _check_named(model, parameters)
    if isinstance(example_inputs, Mapping):
        unknown = [name for name in example_inputs if name not in parameters]
        if unknown:
            raise InputError(
                f"example_inputs has {unknown[0]!r}, which forward of {type(model).__name__} does "
                f"not take; it takes {', '.join(parameters)}"
            )
        _check_tensors(example_inputs)
        return dict(example_inputs)
    if not isinstance(example_inputs, (Tensor, tuple)) or example_inputs == ():
        raise InputError(
            "example_inputs must be a tensor, a tuple or a dict with at least one tensor; got "
            f"{type(example_inputs).__name__}"
        )
    values = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if len(values) > len(parameters):
        raise InputError(
            f"example_inputs has {len(values)} values, but forward of {type(model).__name__} takes "
            f"{len(parameters)}: {', '.join(parameters)}"
        )
    arguments = dict(zip(parameters, values, strict=False))
    _check_tensors(arguments)
    return arguments


def _check_named(model: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Refuse inputs without a name: a graph has none for them."""
    unnamed = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY
    first = next(iter(parameters.values()), None)
    if first is not None and first.kind in unnamed:
        raise InputError(
            f"forward of {type(model).__name__} takes its inputs by position only ({first}), and "
            "an input needs a name: give the model inside, or wrap it in a module whose forward "
            "names each input"
        )


def _check_tensors(arguments: Mapping[str, Any]) -> None:
    """Refuse options among the inputs: a captured graph holds one choice of them."""
    for name, value in arguments.items():
        if isinstance(value, (list, tuple, Mapping)):
            raise InputError(
                f"the example input {name!r} is a {type(value).__name__}, and must be one tensor: "
                "wrap the model in a module whose forward takes the tensors one by one and puts "
                "them together"
            )
        if not isinstance(value, Tensor):
            raise InputError(
                f"the example input {name!r} must be a tensor, got {type(value).__name__}: leave "
                "it out if it has a default, or wrap the model in a module that sets it"
            )


def _check_devices(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"the model is spread over the devices {names}: move it to one, model.to()"
        )
    if torch.device("meta") in devices:
        raise InputError(
            "the model is on the device meta, where it has no weights: load it on cpu or cuda"
        )
    for name, value in arguments.items():
        if isinstance(value, Tensor) and devices and value.device not in devices:
            (device,) = devices
            raise InputError(
                f"the model is on {device}, the example input {name!r} on {value.device}: move one "
                f"to the other's device, for example {name}.to({str(device)!r})"
            )


def _capture(twin: nn.Module, arguments: dict[str, Tensor]) -> fx.GraphModule:
    """Capture a model that belongs to the capture from now on."""
    batch, expected = first_that_runs(twin, arguments)
    try:
        recording = _record(twin, arguments, batch)
    except (UnrecordableError, MismatchError) as error:
        raise UnsupportedModelError(
            f"{type(twin).__name__} cannot be traced: {error}. Move this out of the model's own "
            "forward into a submodule, which is then left whole, or trace the part of the model "
            "that has none of it"
        ) from error
    captured = _assemble(twin, recording)
    inputs = graph_arguments(captured, probe(arguments, batch, batch.second, seed=1))
    with torch.no_grad(), keeping_buffers(captured):
        actual = captured(*inputs)
    _check_capture(expected, actual)
    return captured


def _copy(model: nn.Module, copied: Callable[[nn.Module], nn.Module]) -> nn.Module:
    try:
        with torch.no_grad():  # else a scripted copy is computed from the model
            return copied(model)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be copied ({why_not_copied(model) or error}), so that "
            "it cannot be changed either: give a model that copy.deepcopy takes"
        ) from error


def _record(model: nn.Module, arguments: dict[str, Tensor], batch: Batch) -> Recording:
    """Record at both batch sizes; leave whole what differs, as far as that is a submodule."""
    opaque: dict[str, str] = {}
    while True:
        with keeping_buffers(model):
            first = record(model, probe(arguments, batch, batch.first, seed=2), opaque)
        with keeping_buffers(model):
            second = record(model, probe(arguments, batch, batch.second, seed=3), opaque)
        try:
            unify(first, second, batch)
        except MismatchError as error:
            if not error.path or error.path in opaque or len(opaque) == _MOST_OPAQUE:
                raise
            opaque[error.path] = str(error)
        else:
            return first


class CapturedModule(fx.GraphModule):
    """A graph module that keeps out of state dicts what its root did, whatever torch's release."""

    def __init__(
        self, root: nn.Module | dict[str, Any], graph: fx.Graph, class_name: str = "GraphModule"
    ) -> None:
        super().__init__(root, graph, class_name)
        for path, own in self.named_modules():
            owner = root.get_submodule(path) if isinstance(root, nn.Module) else own
            if own is not owner:
                own._non_persistent_buffers_set |= owner._non_persistent_buffers_set & {
                    *own._buffers
                }

    def _deepcopy_init(self) -> Callable[..., None]:
        return CapturedModule.__init__


def _assemble(model: nn.Module, recording: Recording) -> fx.GraphModule:
    """Make a module of a recording and of the model's own parts."""
    graph = recording.graph
    _erase_unused(graph)
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for path in targets & recording.modules.keys():
        owner, _, name = path.rpartition(".")
        model.get_submodule(owner)._modules[name] = recording.modules[path]
    for path in targets & recording.constants.keys():
        owner, _, name = path.rpartition(".")
        value = recording.constants[path]
        model.get_submodule(owner).register_buffer(name, value, persistent=False)
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    captured = CapturedModule(model, graph, type(model).__name__).eval()
    captured.graph.lint()
    return captured


def graph_arguments(captured: fx.GraphModule, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Order named inputs as the placeholders of a captured graph expect them."""
    return tuple(
        arguments[node.target] if node.target in arguments else next(iter(node.args), None)
        for node in captured.graph.nodes
        if node.op == "placeholder"
    )


def _erase_unused(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _check_capture(expected: Any, actual: Any) -> None:
    """Refuse a capture that computes something else, as baked-in control flow can make it."""
    wanted, got = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    if len(wanted) != len(got) or not all(map(_agree, wanted, got)):
        raise UnsupportedModelError(
            "the traced model computes other values than the model: its forward depends on "
            "something that tracing freezes (flags, or tensor values) or loses (memory that it "
            "changes behind a view, or keeps between calls). Write that part without it"
        )


def _agree(wanted: Any, got: Any) -> bool:
    if not isinstance(wanted, Tensor):
        return True
    same_kind = isinstance(got, Tensor) and (wanted.shape, wanted.dtype) == (got.shape, got.dtype)
    if not same_kind or not wanted.is_floating_point():
        return same_kind and torch.equal(wanted, got)
    # Rounding is relative to the largest value: the others may come of its cancelling.
    finite = wanted[wanted.isfinite()].abs()
    scale = max(1.0, float(finite.max())) if len(finite) else 1.0
    return torch.allclose(wanted, got, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def _check_visible(captured: fx.GraphModule) -> None:
    """Refuse a model all of whose convolutions are inside modules that cannot be recorded."""
    opaque: dict[str, str] = {}
    for node in captured.graph.nodes:
        if node.op == "call_module":
            path = str(node.target)
            module = captured.get_submodule(path)
            if isinstance(module, nn.Conv2d):
                return
            if any(isinstance(part, nn.Conv2d) for part in module.modules()):
                opaque[path] = str(node.meta.get("opaque_reason", ""))
    if any(opaque.values()):
        places = "; ".join(f"{path}: {reason}" for path, reason in opaque.items())
        raise UnsupportedModelError(
            f"{type(captured).__name__} cannot be traced: all its convolutions are in modules that "
            f"cannot be recorded. {places}. Give the part of the model that holds the convolutions"
        )


def _check_batched(captured: fx.GraphModule) -> None:
    """Refuse an image without a batch dimension, which torch takes but shapes are read off."""
    for node in captured.graph.nodes:
        if node.op == "call_module" and isinstance(
            captured.get_submodule(str(node.target)), nn.Conv2d
        ):
            shape = node.meta["shape"]
            if len(shape) != 4:
                raise InputError(
                    f"convolution {node.target} gives the shape {shape}, expected (batch, "
                    "channels, height, width): give example_inputs with a batch dimension, as "
                    "image[None] has"
                )
