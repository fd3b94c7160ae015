"""Which plans a search considers: what may be removed, and the restrictions of enumeration."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from layermerge.arguments import check_argument
from layermerge.candidates import SPACES, CandidateSpace
from layermerge.dataflow import REMOVABLE
from layermerge.enumeration import MAX_WEIGHTS, enumerate_candidates
from layermerge.errors import InputError
from layermerge.network import Network
from layermerge.paper_space import enumerate_paper_candidates


@dataclass(frozen=True)
class SearchSpace:
    """What a plan is chosen from.

    Attributes
    ----------
    space : {"general", "paper"}
        ``paper`` is the authors' space, for their networks.
    remove : collection of str
        See `trace`.
    method, max_kernel, max_flops_ratio, boundary_activation
        See `enumerate_candidates`.
    max_segment, max_weights, frozen, drop_branches
        See `enumerate_candidates`; in the general space only.
    breaks : collection of int or None
        Positions that no segment may cross; in the paper's space on the authors' axis and, by
        default, theirs.
    """

    space: str = "general"
    remove: Collection[str] = ("activation",)
    method: str = "layermerge"
    max_kernel: int | None = None
    max_segment: int | None = None
    max_flops_ratio: float | None = 2.0
    max_weights: int | None = MAX_WEIGHTS
    frozen: Collection[int | str] = ()
    breaks: Collection[int] | None = None
    drop_branches: bool = True
    boundary_activation: bool = False

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise InputError(f"space must be one of {', '.join(SPACES)}; got {self.space!r}")
        if not isinstance(self.remove, Collection):
            raise InputError(
                f"remove must name what may be removed, of {', '.join(REMOVABLE)}; got "
                f"{self.remove!r}"
            )
        if self.space == "paper" and self.frozen:
            raise InputError(
                "frozen is for the general space: in the paper's space, the authors fix the layers "
                "that stay, and breaks restricts it further"
            )

    def enumerate(self, network: Network) -> CandidateSpace:
        """The candidates of a network that was traced with the same `remove`.

        Raises
        ------
        InputError
            If it was traced with another.
        """
        check_argument("network", network, Network)
        own = {self.remove} if isinstance(self.remove, str) else set(self.remove)
        if own != set(network.remove):
            raise InputError(
                f"the search space removes {', '.join(sorted(own))}, and the network was traced "
                f"to remove {', '.join(network.remove)}: trace(model, inputs, remove=space.remove)"
            )
        if self.space == "paper":
            return enumerate_paper_candidates(
                network,
                method=self.method,
                max_kernel=self.max_kernel,
                max_flops_ratio=self.max_flops_ratio,
                breaks=self.breaks,
                boundary_activation=self.boundary_activation,
            )
        return enumerate_candidates(
            network,
            method=self.method,
            max_kernel=self.max_kernel,
            max_segment=self.max_segment,
            max_flops_ratio=self.max_flops_ratio,
            max_weights=self.max_weights,
            frozen=self.frozen,
            breaks=self.breaks or (),
            drop_branches=self.drop_branches,
            boundary_activation=self.boundary_activation,
        )
