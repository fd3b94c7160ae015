"""Record what a model does, as a graph whose leaves are its own modules.

The model runs once, for real. Every torch function that it calls becomes a node, under the name
that `canonical` gives it. Calls of library modules stay whole; other modules are entered. What
cannot be written down (a branch on a tensor's value, a trip through numpy) spoils the innermost
module that does it: of that module only the call is recorded, with the reason in
``node.meta["opaque_reason"]``, and recording goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from layermerge.canonical import Call
from layermerge.containers import UnrecordableError, is_container, is_plain, map_tensors
from layermerge.errors import UnsupportedModelError
from layermerge.function_calls import call_and_write
from layermerge.graph_writer import Frame, GraphWriter, Recording
from layermerge.leaves import is_leaf
from layermerge.tracked import Held, version_of


def record(
    model: nn.Module, inputs: Mapping[str, Tensor], opaque: Mapping[str, str] | None = None
) -> Recording:
    """Run a model on inputs and record it.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Unchanged afterwards.
    inputs : dict of str to Tensor
        Arguments of forward. Each becomes a placeholder; the others keep their defaults.
    opaque : dict of str to str, optional
        Modules not to enter, by path, and why.

    Raises
    ------
    UnrecordableError
        If the model's own forward cannot be recorded.
    UnsupportedModelError
        If the model uses random numbers.
    """
    writer = GraphWriter(model)
    with torch.enable_grad(), _requiring_no_gradients(model):
        return _record(writer, inputs, opaque or {})


@contextmanager
def _requiring_no_gradients(model: nn.Module) -> Iterator[None]:
    """Keep no activations for gradients, while ``torch.no_grad`` in forward can still be seen."""
    trained = [value for value in model.parameters() if value.requires_grad and value.is_leaf]
    for value in trained:
        value.requires_grad = False
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad = True


def _record(
    writer: GraphWriter, inputs: Mapping[str, Tensor], opaque: Mapping[str, str]
) -> Recording:
    for name, value in inputs.items():
        writer.bind(value, writer.node(Call("placeholder", name, ())))
    writer.finish(_run(_Recorder(writer, opaque), inputs))
    return writer.recording


def _run(recorder: _Recorder, inputs: Mapping[str, Tensor]) -> Any:
    try:
        with recorder.patched(), recorder:
            return recorder.model(**inputs)
    except (UnrecordableError, UnsupportedModelError):
        raise
    except Exception as error:
        raise UnrecordableError(f"it fails while it is recorded ({error})") from error


class _Recorder(TorchFunctionMode):
    """Sees every call of a torch function and, through `patched`, of the model's modules."""

    def __init__(self, writer: GraphWriter, opaque: Mapping[str, str]) -> None:
        super().__init__()
        self.model = writer.model
        self._writer = writer
        self._opaque = opaque
        self._paused = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._paused or not self._writer.frames:
            return func(*args, **(kwargs or {}))
        return call_and_write(self._writer, func, args, kwargs or {})

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Route calls of this model's modules, and of no others, through the recorder."""
        modules = dict(self.model.named_modules())
        for path, module in modules.items():
            module.__dict__["_call_impl"] = partial(self._call, path, module)
        try:
            yield
        finally:
            for module in modules.values():
                module.__dict__.pop("_call_impl", None)

    @contextmanager
    def _pause(self) -> Iterator[None]:
        before, self._paused = self._paused, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self._paused = before

    def _call(self, path: str, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        run = partial(type(module)._call_impl, module, *args, **kwargs)
        if self._paused:
            return run()
        with self._pause():
            held = self._writer.tensors.snapshot((args, kwargs))
        reason = self._opaque.get(path)
        if self._writer.frames and (reason is not None or is_leaf(module)):
            with self._pause():
                return self._write(path, (args, kwargs), run(), held, reason)
        frame = Frame(path, module, self._writer.last())
        result = self._run_in(frame, run)
        if not frame.reason:
            return result
        if not self._writer.frames:
            raise UnrecordableError(frame.reason)
        with self._pause():
            self._writer.forget_since(frame)
            return self._write(path, (args, kwargs), result, held, frame.reason)

    def _run_in(self, frame: Frame, run: Callable[[], Any]) -> Any:
        self._writer.frames.append(frame)
        try:
            result = run()
            with self._pause():
                self._writer.claim(result)
            return result
        finally:
            self._writer.frames.pop()

    def _write(self, path: str, call: Any, result: Any, held: Held, reason: str | None) -> Any:
        """Write the call of a module as one node; return its result, as a value of its own."""
        changed = [value for value, _, version in held.values() if version_of(value) != version]
        try:
            self._check_result(path, result, changed)
            args, kwargs = map_tensors(call, partial(self._node_before, held))
        except UnrecordableError as error:
            return self._writer.spoil(str(error), result, changed)
        node = self._writer.node(Call("call_module", path, args, kwargs))
        if reason is not None:
            node.meta["opaque_reason"] = reason
        if isinstance(result, Tensor) and not changed and id(result) in held:
            # What passes its input through still has an output, which training may change.
            result = result.view_as(result)
        return self._writer.bind(result, node, held)

    def _check_result(self, path: str, result: Any, changed: list[Tensor]) -> None:
        if any(value is not result for value in changed):
            raise UnrecordableError(f"{path} changes its input in place")
        if not is_container(result) and not is_plain(result):
            raise UnrecordableError(f"{path} returns a {type(result).__name__}")

    def _node_before(self, held: Held, value: Tensor) -> fx.Node:
        """The node of an argument before the call, which may have changed it in place."""
        node = held[id(value)][1] if id(value) in held else None
        return node or self._writer.node_of(value)
