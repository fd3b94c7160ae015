"""The search spaces of the paper's networks, on the authors' axis.

Their axis counts the convolutions of the main path: not the shortcuts, and of most networks not
the stem, whose output is position 0. Where segments must end ("breaks") is fixed for each network
(facts about the authors' implementation, snu-mllab/LayerMerge, commit 3dcddb6).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from layermerge.arguments import check_argument
from layermerge.candidates import Candidate, CandidateSpace
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.network import Layer, Network
from layermerge.restrictions import Limits, check_ratio


@dataclass(frozen=True)
class _Axis:
    """What the authors fixed for one network."""

    name: str
    num_layers: int
    is_it: Callable[[Network], bool]
    breaks: tuple[int, ...] = ()
    has_stem: bool = True
    has_last: bool = False


def enumerate_paper_candidates(
    network: Network,
    *,
    method: str = "layermerge",
    max_kernel: int | None = None,
    max_flops_ratio: float | None = None,
    breaks: Collection[int] | None = None,
    boundary_activation: bool = False,
) -> CandidateSpace:
    """Enumerate the candidates of the authors' search space.

    Parameters
    ----------
    network : Network
        Traced from ResNet-34, ResNet-50, MobileNetV2, VGG-19 or the DDPM U-Net for CIFAR-10, the
        latter with ``remove=("activation", "norm")``; of any width and at any input size.
    breaks : collection of int, optional
        Positions on the authors' axis that no segment may cross, instead of theirs.
    method, max_kernel, max_flops_ratio, boundary_activation
        As in `enumerate_candidates`.

    Returns
    -------
    CandidateSpace
        Theirs, and the candidates that leave the other layers as they are.

    Raises
    ------
    InputError
        If the network is another.
    """
    check_argument("network", network, Network)
    axis, main_path = _recognise(network)
    position = {layer.index: place for place, layer in enumerate(main_path, start=1)}
    index = {place: layer for layer, place in position.items()}
    wanted = axis.breaks if breaks is None else breaks
    for place in wanted:
        if not 0 <= place <= axis.num_layers:
            raise InputError(
                f"breaks names position {place}; positions of {axis.name} are 0..{axis.num_layers}"
            )
    ours = [index[place] for place in wanted if place]
    after_resize = {s.end for s in network.segments if _enlarges(network, s.entry)}
    check_ratio(max_flops_ratio)
    space = enumerate_candidates(
        network,
        method=method,
        max_kernel=max_kernel,
        max_weights=None,
        breaks=ours,
        drop_branches=bool(after_resize),
        boundary_activation=boundary_activation,
    )
    candidates = tuple(
        candidate
        for candidate in space.candidates
        if candidate.is_original or _is_theirs(candidate, position, after_resize)
    )
    space = replace(space, candidates=candidates, axis=position)
    return Limits(max_flops_ratio, None).applied(space)


def _is_theirs(
    candidate: Candidate, position: Mapping[int, int], after_resize: Collection[int]
) -> bool:
    if not candidate.kept:
        return candidate.end - candidate.start == 1 and candidate.end in after_resize
    return candidate.start + 1 in position and candidate.end in position


def _recognise(network: Network) -> tuple[_Axis, tuple[Layer, ...]]:
    shortcuts = _shortcuts(network)
    main_path = tuple(layer for layer in network.layers if layer.index not in shortcuts)
    for axis in _AXES:
        inner = main_path[axis.has_stem : len(main_path) - axis.has_last]
        if len(inner) == axis.num_layers and axis.is_it(network):
            return axis, inner
    raise InputError(
        f"the paper has no search space for {network.name}, with {len(main_path)} convolutions on "
        f"its main path; it has those of {', '.join(axis.name for axis in _AXES)}. Give breaks "
        "in the general space instead"
    )


def _shortcuts(network: Network) -> set[int]:
    """The 1x1 convolutions beside a branch: added to it, and not fed by the layer before them."""
    places = {(segment.start, segment.end) for segment in network.segments}
    return {
        segment.end
        for segment in network.segments
        if segment.end - segment.start == 1
        and segment.is_sum
        and network.layers[segment.start].kernel_size == (1, 1)
        and (segment.end - 2, segment.end) not in places
    }


def _enlarges(network: Network, value: str) -> bool:
    kinds = {barrier.name: barrier.kind.lower() for barrier in network.barriers}
    return any(word in kinds.get(value, "") for word in ("interpolate", "upsample"))


def _has_kernels(*sizes: int) -> Callable[[Network], bool]:
    def check(network: Network) -> bool:
        return {layer.kernel_size[0] for layer in network.layers[1:]} == set(sizes)

    return check


def _is_mobile_net(network: Network) -> bool:
    return any(layer.is_depthwise for layer in network.layers)


def _is_unet(network: Network) -> bool:
    return "norm" in network.remove and any(_enlarges(network, s.entry) for s in network.segments)


_AXES = (
    _Axis("ResNet-34", 32, _has_kernels(1, 3), (0, 7, 15, 27)),
    _Axis("ResNet-50", 48, _has_kernels(1, 3), (0, 11, 23, 41)),
    _Axis("MobileNetV2", 50, _is_mobile_net, (0, 5, 11, 20, 41), has_last=True),
    _Axis("the DDPM U-Net (remove activations and norms)", 51, _is_unet),
    _Axis("VGG-19", 16, _has_kernels(3), has_stem=False),
)
