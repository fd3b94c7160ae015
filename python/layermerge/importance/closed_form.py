"""Closed-form merging: the convolution that best does on data what a segment did.

For each planned segment, W = argmin ||Y - W * X||² + r ||W - W₀||², where X enters the merged
convolution, Y is what the *original* network computes at the segment's exit, activations included,
and W₀ are the composed weights. It is linear least squares: the normal equations are accumulated
over batches in float64. Segments are fitted in order, each on what the ones before it now compute,
so that later ones make up for the errors of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from layermerge.arguments import check_argument
from layermerge.checks import check_number, check_truth
from layermerge.errors import InputError, shown
from layermerge.importance.activations import Batches, check_batches, device_of, inputs_of, record
from layermerge.merging import merge, merge_unverified
from layermerge.model_checks import check_model
from layermerge.network import Network
from layermerge.plan import Plan, PlannedSegment, original_plan
from layermerge.rewriting import rewrite

RIDGE = 1e-4
"""Weight of the composed kernel, relative to the mean square of the inputs."""


MAX_ELEMENTS = 1 << 24
"""Numbers in a matrix of patches, which is made for some images at a time (128 MiB in float64)."""


class NormalEquations:
    """Sums over batches that decide the best weight and bias of one convolution.

    Parameters
    ----------
    convolution : torch.nn.Conv2d
        Gives geometry and groups, and the weights that the ridge draws towards.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution = convolution
        groups, taps = convolution.groups, convolution.weight[0].numel()
        outputs = convolution.out_channels // groups
        device = convolution.weight.device
        # One row more than there are taps: the bias, whose input is 1.
        self.gram = torch.zeros(groups, taps + 1, taps + 1, dtype=torch.float64, device=device)
        self.cross = torch.zeros(groups, taps + 1, outputs, dtype=torch.float64, device=device)
        self.energy = 0.0

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add a batch: inputs of the convolution, and what it should give for them."""
        per_image = self.gram.shape[1] * self.convolution.groups * targets[0, 0].numel()
        images = max(1, MAX_ELEMENTS // per_image)
        for part in zip(torch.split(inputs, images), torch.split(targets, images), strict=True):
            self._add(*part)

    def _add(self, inputs: Tensor, targets: Tensor) -> None:
        groups = self.convolution.groups
        patches = self._patches(inputs)
        wanted = targets.double().flatten(2).transpose(0, 1).flatten(1)
        wanted = wanted.reshape(groups, -1, wanted.shape[1])
        if patches.shape[2] != wanted.shape[2]:
            raise InputError(
                f"targets of shape {tuple(targets.shape)} do not fit inputs of shape "
                f"{tuple(inputs.shape)} under this convolution"
            )
        self.gram += patches @ patches.transpose(1, 2)
        self.cross += patches @ wanted.transpose(1, 2)
        self.energy += float(wanted.square().sum())

    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """The best weight and bias, in float64."""
        start = self._start()
        identity = torch.eye(self.gram.shape[1], dtype=torch.float64, device=self.gram.device)
        # Scaled by the mean square of a tap, so that `ridge` has no unit.
        scale = self.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-300)
        penalty = ridge * scale * identity
        try:
            solution = torch.linalg.solve(self.gram + penalty, self.cross + penalty @ start)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise InputError(
                f"the calibration data leaves weights undetermined at ridge {ridge:g}: give more "
                f"data, or a larger ridge, such as {RIDGE:g}"
            ) from error
        shape = self.convolution.weight.shape
        weight = solution[:, :-1].transpose(1, 2).reshape(shape)
        return weight, solution[:, -1].flatten()

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """||Y - W * X||² / ||Y||² over all batches."""
        filters = self._stack(weight.double(), bias.double())
        fitted = torch.einsum("gio,gij,gjo->", filters, self.gram, filters)
        residual = self.energy - 2 * (filters * self.cross).sum() + fitted
        return max(0.0, float(residual)) / max(self.energy, 1e-300)

    def _patches(self, inputs: Tensor) -> Tensor:
        """Columns of the convolution as a matrix product [groups, taps + 1, pixels]."""
        conv = self.convolution
        columns = F.unfold(
            inputs.double(),
            cast(tuple[int, int], conv.kernel_size),
            cast(tuple[int, int], conv.dilation),
            cast(tuple[int, int], conv.padding),
            cast(tuple[int, int], conv.stride),
        )
        columns = columns.transpose(0, 1).flatten(1)
        columns = columns.reshape(conv.groups, -1, columns.shape[1])
        ones = torch.ones_like(columns[:, :1])
        return torch.cat([columns, ones], 1)

    def _start(self) -> Tensor:
        bias = self.convolution.bias
        weight = self.convolution.weight.detach().double()
        zero = weight.new_zeros(weight.shape[0])
        return self._stack(weight, zero if bias is None else bias.detach().double())

    def _stack(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Weight and bias as one matrix [groups, taps + 1, outputs]."""
        groups = self.convolution.groups
        rows = torch.cat([weight.flatten(1), bias[:, None]], 1)
        return rows.view(groups, -1, rows.shape[1]).transpose(1, 2)


def fit_convolution(
    convolution: nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]], *, ridge: float = RIDGE
) -> float:
    """Set weight and bias of a convolution to the best for pairs of inputs and targets.

    Returns
    -------
    float
        What is left, ||Y - W * X||² / ||Y||².
    """
    if convolution.bias is None:
        raise InputError("the convolution has no bias: closed-form merging sets weight and bias")
    equations = NormalEquations(convolution)
    for inputs, targets in pairs:
        equations.add(inputs, targets)
    weight, bias = equations.solve(ridge)
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)
    return equations.error(convolution.weight.detach(), convolution.bias.detach())


def merge_least_squares(
    model: nn.Module,
    network: Network,
    plan: Plan,
    batches: Batches,
    *,
    ridge: float = RIDGE,
    verify: bool = True,
    report: Callable[[PlannedSegment, float], None] = lambda segment, error: None,
) -> fx.GraphModule:
    """Merge by least squares on calibration data instead of composing pruned weights.

    Parameters
    ----------
    model : torch.nn.Module
        The model that `network` was traced from, in evaluation mode. Left as it is.
    network : Network
    plan : Plan
    batches : iterable
        Inputs, or tuples that begin with them; iterated once for each segment that is not original,
        and once to check them.
    ridge : float
        See `NormalEquations.solve`.
    verify : bool
        Check the batches and, before the weights are set, that the merged network has the right
        structure.
    report : callable
        Told the relative error that is left at each fitted segment.

    Returns
    -------
    torch.fx.GraphModule
        The network that `merge` gives, with other weights. A segment that became its shortcut has
        none to set.
    """
    check_model(model)
    check_argument("network", network, Network)
    check_argument("plan", plan, Plan)
    check_number("ridge", ridge, least=0)
    check_truth("verify", verify)
    if not callable(report):
        raise InputError(
            f"report must be a function of a segment and its error, got {shown(repr(report))}"
        )
    if verify:
        check_batches("batches", batches, model, network)
    original = rewrite(model, original_plan(network))
    merged = merge(rewrite(model, plan)) if verify else merge_unverified(rewrite(model, plan))
    exits = {(segment.start, segment.end): segment.exit for segment in network.segments}
    for segment in plan.segments:
        node = None if segment.is_original else _merged_node(merged, network, segment)
        if node is None:
            continue
        pairs = _pairs(original, exits[segment.start, segment.end], merged, node, batches)
        convolution = cast(nn.Conv2d, merged.get_submodule(str(node.target)))
        report(segment, fit_convolution(convolution, pairs, ridge=ridge))
    return merged


def _merged_node(
    merged: fx.GraphModule, network: Network, segment: PlannedSegment
) -> fx.Node | None:
    """Where the merged convolution of a segment is called; None if it became its shortcut."""
    names = {network.layers[layer - 1].name for layer in segment.kept}
    calls = (node for node in merged.graph.nodes if node.op == "call_module")
    return next((node for node in calls if node.target in names), None)


@torch.no_grad()
def _pairs(
    original: fx.GraphModule, exit: str, merged: fx.GraphModule, node: fx.Node, batches: Batches
) -> Iterable[tuple[Tensor, Tensor]]:
    """What enters a merged convolution, and what the original network has at its exit."""
    entry = cast(fx.Node, node.args[0]).name
    for inputs in inputs_of(batches, device_of(merged)):
        yield record(merged, inputs, {entry})[entry], record(original, inputs, {exit})[exit]
