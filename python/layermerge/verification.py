"""Compare a merged with its rewritten network: segment by segment in float64, and as a whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.arithmetic import constant_value, device_of, is_constant
from layermerge.errors import TrainingError, VerificationError
from layermerge.graph import graph_arguments
from layermerge.rewriting import example_tensors, rewriting_of
from layermerge.weights import load_state

FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 1e-4
_ROUNDING = 100
"""How often the merged network may have the rounding error of the rewritten one, or what rounding
each of its own weights changes: what `FLOAT32_TOLERANCE` is to networks of good condition."""
_META_KEY = "layermerge_verification"


@dataclass(frozen=True)
class Verification:
    """How far a merged network is from the rewritten one, relative to the largest output.

    Attributes
    ----------
    float64_error : float
        The largest difference between a segment and its convolution, both in double precision:
        whether the merge is exact.
    error : float
        The difference of the outputs, in the network's own precision: what rounding adds. Where
        that is much, the difference from the rewritten network in double precision, because deep
        segments may round far more before they are merged than after.
    """

    float64_error: float
    error: float


def verification(merged: fx.GraphModule) -> Verification:
    """How far a merged network is from the rewritten one."""
    found = merged.meta[_META_KEY]
    assert isinstance(found, Verification)
    return found


def record_verification(merged: fx.GraphModule, found: Verification) -> None:
    """Let `verification` return what was found."""
    merged.meta[_META_KEY] = found


@dataclass(frozen=True)
class Sample:
    """Random inputs of a network, in the order of its placeholders, and what it computes."""

    inputs: tuple[Any, ...]
    outputs: Any


def verify(
    rewritten: fx.GraphModule,
    merged: fx.GraphModule,
    segment_errors: Mapping[str, float],
    sample: Sample,
) -> Verification:
    """Compare a merged with its rewritten network on random inputs.

    Parameters
    ----------
    rewritten, merged : torch.fx.GraphModule
    segment_errors : mapping of str to float
        What `segment_error` found, by segment in words.
    sample : Sample
        Of the rewritten network.

    Raises
    ------
    VerificationError
        If they differ by more than rounding explains; names the segment that differs most.
    """
    tolerance = tolerance_of(rewritten)
    with torch.no_grad():
        actual = merged(*sample.inputs)
        error = relative_difference(sample.outputs, actual)
        exact = _in_float64(rewritten, sample.inputs) if error > tolerance else None
        if exact is not None:
            error = relative_difference(exact, actual)
            rounding = relative_difference(exact, sample.outputs)
            rounding = max(rounding, _sensitivity(merged, sample.inputs))
            tolerance = max(tolerance, _ROUNDING * rounding)
    found = Verification(max(segment_errors.values(), default=0.0), error)
    if not (found.float64_error <= FLOAT64_TOLERANCE and found.error <= tolerance):
        worst = max(segment_errors, key=lambda name: segment_errors[name], default="the output")
        raise VerificationError(
            f"the merged network differs from the rewritten one by {found.float64_error:.1e} in "
            f"float64 (expected at most {FLOAT64_TOLERANCE:.0e}) and {found.error:.1e} in its own "
            f"precision (expected at most {tolerance:.0e}); most at {worst}. Please report this "
            "model: such a plan should not have been offered"
        )
    return found


def finite_sample(rewritten: fx.GraphModule) -> Sample:
    """Run a rewritten network; NaN is refused, which is not to be compared with anything.

    Raises
    ------
    TrainingError
        If the output of the rewritten network is not finite, on positive inputs neither.
    """
    for is_positive in (False, True):
        with torch.no_grad():
            inputs = _random_arguments(rewritten, is_positive=is_positive)
            sample = Sample(inputs, rewritten(*inputs))
        if is_finite(sample.outputs):
            return sample
    weights = rewritten.named_parameters()
    bad = [name for name, weight in weights if not torch.isfinite(weight).all()]
    raise TrainingError(
        "the rewritten network computes NaN or infinite values before it is merged"
        + (f", as its parameter {bad[0]!r} holds such values" if bad else ", on random inputs")
        + ": if it was fine-tuned, that diverged. Lower the learning rate, and look at what "
        "finetune_fn (or train_fn) does to the network"
        + ("" if bad else "; or norms that the plan removes kept its values small: keep them")
    )


def is_finite(outputs: Any) -> bool:
    """Whether no tensor of an output holds NaN or infinite values."""
    leaves = pytree.tree_leaves(outputs)
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves if isinstance(leaf, Tensor))


@torch.no_grad()
def segment_error(
    graph: fx.GraphModule,
    entry: fx.Node,
    nodes: Iterable[fx.Node],
    written: Iterable[fx.Node],
    modules: Mapping[str, nn.Module],
) -> float:
    """Run a segment and what is to replace it in float64, on the same random values.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        Holds both.
    entry : torch.fx.Node
    nodes, written : iterable of torch.fx.Node
        The segment and its replacement, in topological order.
    modules : mapping of str to torch.nn.Module
        What the replacement calls, in float64, by target.

    Returns
    -------
    float
        Largest difference, relative to the largest value.
    """
    run = _SegmentRun(graph)
    return relative_difference(run.value(entry, nodes, {}), run.value(entry, written, modules))


class _SegmentRun:
    """Runs nodes of a graph in float64; what comes from outside is random, the same each time."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.generator = torch.Generator().manual_seed(0)
        self.outside: dict[fx.Node, Tensor] = {}

    def value(
        self, entry: fx.Node, nodes: Iterable[fx.Node], modules: Mapping[str, nn.Module]
    ) -> Tensor:
        values = {entry: self._random(entry)}
        last = entry
        for node in nodes:
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda source: self._value_of(source, values)
            )
            values[node] = self._call(node, modules)(*args, **kwargs)
            last = node
        return values[last]

    def _value_of(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        if node in values:
            return values[node]
        if is_constant(node):
            constant: Tensor = constant_value(self.graph, node)
            return constant.double()
        return self._random(node)

    def _random(self, node: fx.Node) -> Tensor:
        if node not in self.outside:
            value = torch.randn(node.meta["shape"], generator=self.generator, dtype=torch.float64)
            self.outside[node] = value.to(device_of(self.graph))
        return self.outside[node]

    def _call(self, node: fx.Node, modules: Mapping[str, nn.Module]) -> Any:
        if node.op == "call_function":
            return node.target
        name = str(node.target)
        if node.op == "call_method":
            return lambda value, *args, **kwargs: getattr(value, name)(*args, **kwargs)
        if name in modules:
            return modules[name]
        return copy.deepcopy(self.graph.get_submodule(name)).double()


def tolerance_of(network: nn.Module) -> float:
    """What rounding may add in the network's own precision: 0.25 in bfloat16, 0.03 in float16."""
    return max(FLOAT32_TOLERANCE, 32 * torch.finfo(_sample(network).dtype).eps)


def _sample(network: nn.Module) -> Tensor:
    """A tensor of the network's precision and device: an input, where every layer was dropped."""
    inputs = example_tensors(rewriting_of(network).plan.inputs, torch.device("cpu")).values()
    floating = (value for value in inputs if value.is_floating_point())
    return next(network.parameters(), next(floating, torch.zeros(())))


@torch.no_grad()
def check_only_weights_changed(
    name: str, trained: fx.GraphModule, untrained: fx.GraphModule
) -> None:
    """Refuse a training after which the weights alone do not say what the network computes.

    Such as one that leaves a hook, or exchanges an activation: they would be lost with a merge, or
    where the weights are loaded again.

    Parameters
    ----------
    name : str
        Of the function that trained.
    trained, untrained : torch.fx.GraphModule
        The second, a copy from before, gets the weights of the first.

    Raises
    ------
    TrainingError
    """
    load_state(untrained, trained.state_dict(), f"the network that {name} left")
    sample = finite_sample(untrained.eval())
    error = relative_difference(sample.outputs, trained(*sample.inputs))
    if error > tolerance_of(trained):
        raise TrainingError(
            f"{name} must change weights alone, and the network computes something else "
            f"(by {error:.1e}) than its structure does with these weights: take off hooks, leave "
            "activations and settings of modules, such as eps, as they are, and let what changes "
            "be parameters or persistent buffers"
        )


def _random_arguments(network: fx.GraphModule, *, is_positive: bool) -> tuple[Any, ...]:
    weight = _sample(network)
    specs = rewriting_of(network).plan.inputs
    named = example_tensors(specs, weight.device, seed=0, is_positive=is_positive)
    typed = {
        name: value.to(weight.dtype) if value.is_floating_point() else value
        for name, value in named.items()
    }
    return graph_arguments(network, typed)


def _in_float64(network: fx.GraphModule, arguments: tuple[Any, ...]) -> Any:
    """What the network computes in double precision; None if some part of it cannot."""
    try:
        return copy.deepcopy(network).double()(*_doubled(arguments))
    except RuntimeError:
        return None


def _doubled(arguments: tuple[Any, ...]) -> Any:
    return pytree.tree_map_only(
        Tensor, lambda value: value.double() if value.is_floating_point() else value, arguments
    )


@torch.no_grad()
def _sensitivity(network: fx.GraphModule, arguments: tuple[Any, ...]) -> float:
    """How far its outputs move, in double precision, when each weight moves by its rounding."""
    rounding = torch.finfo(_sample(network).dtype).eps
    moved, doubled = copy.deepcopy(network).double(), _doubled(arguments)
    expected = moved(*doubled)
    generator = torch.Generator().manual_seed(0)
    for weight in moved.parameters():
        noise = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1
        weight.mul_(1 + rounding * noise.to(weight.device))
    return relative_difference(expected, moved(*doubled))


def relative_difference(expected: Any, actual: Any) -> float:
    """Largest |expected - actual| / max |expected| over all tensors; infinite if not comparable.

    Indices and truth values are left out: where two values are nearly equal, rounding decides.
    """
    worst = 0.0
    for wanted, got in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
        if isinstance(wanted, Tensor) and wanted.is_floating_point() and wanted.numel():
            scale = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
            error = float((wanted - got).abs().max() / scale)
            worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst
