"""What may replace a segment: merged kernel size, kept layers, signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from layermerge.arguments import check_argument
from layermerge.errors import InputError
from layermerge.network import Network
from layermerge.windows import Padding, Size, Window

METHODS = ("layermerge", "depth", "layer_only")
SPACES = ("general", "paper")


@dataclass(frozen=True)
class Signature:
    """What decides the latency of a merged convolution on a given device.

    Equal signatures are measured once. `is_sum` and `activation` describe what runs right after
    it: a residual addition, an activation. A kernel of size (0, 0) stands for no convolution: the
    segment is dropped, and only what follows it runs.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size
    padding: Padding
    dilation: Size
    groups: int
    input_size: Size
    is_sum: bool
    activation: str | None

    @property
    def is_identity(self) -> bool:
        """Whether there is no convolution."""
        return self.kernel_size == (0, 0)

    @property
    def output_size(self) -> Size:
        """Height and width of the output."""
        if self.is_identity:
            return self.input_size
        window = Window(self.kernel_size, self.stride, self.padding, self.dilation)
        return window.output_size(self.input_size)

    def __str__(self) -> str:
        height, width = self.kernel_size
        size = "no convolution" if self.is_identity else f"{height}x{width}"
        parts = [size, f"{self.in_channels} -> {self.out_channels}"]
        if max(self.stride) > 1:
            parts.append(f"stride {max(self.stride)}")
        if self.is_depthwise:
            parts.append("depthwise")
        elif self.groups > 1:
            parts.append(f"{self.groups} groups")
        if self.is_sum:
            parts.append("add")
        if self.activation:
            parts.append(self.activation)
        return ", ".join(parts)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def num_weights(self) -> int:
        """Number of weights of the convolution."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        return taps * self.in_channels // self.groups * self.out_channels

    @property
    def flops(self) -> int:
        """Multiply-adds x 2 of the convolution for one image (bias and activation left out)."""
        return 2 * self.num_weights * math.prod(self.output_size)


@dataclass(frozen=True)
class Candidate:
    """One way to run a segment: layers `kept` merge into a `kernel_size` convolution.

    Attributes
    ----------
    kernel_size : (int, int)
        In pixels, dilation included.
    kept : tuple of int
        Indices of the layers. Empty, if the identity stands in for the segment.
    tail : tuple of str
        Removable barriers that run if the candidate is chosen; see `Segment.tail`.
    activation : str or None
        Kind of an activation that is added behind a merged segment which had none there.
    norm : str or None
        Graph node of a norm inside the segment that is put behind the merged convolution.
    """

    start: int
    end: int
    kernel_size: Size
    kept: tuple[int, ...]
    signature: Signature
    tail: tuple[str, ...] = ()
    activation: str | None = None
    norm: str | None = None

    @property
    def is_original(self) -> bool:
        """Whether this leaves the network as it is: one layer, kept."""
        return self.end - self.start == 1 == len(self.kept)

    @property
    def key(self) -> str:
        """Identity within a network, as stored with scores.

        Examples
        --------
        ``"2-5:3x3:4,5"``: layers 3..5 become a 3x3 convolution made of layers 4 and 5.
        """
        height, width = self.kernel_size
        added = "".join(f"+{part}" for part in (self.activation, self.norm) if part)
        kept = ",".join(map(str, self.kept))
        return f"{self.start}-{self.end}:{height}x{width}:{kept}{added}"


PLAN, _AND = "plan", " & "
"""How the key of a combination begins, and what joins those of its candidates."""


@dataclass(frozen=True)
class Combination:
    """Several candidates at once, as in a plan; layers that none of them replaces stay."""

    candidates: tuple[Candidate, ...]

    @property
    def key(self) -> str:
        """Identity within a network, as stored with scores."""
        replaced = [each.key for each in self.candidates if not each.is_original]
        return _AND.join([PLAN, *replaced])

    @staticmethod
    def named(key: str, candidates: Sequence[Candidate]) -> Combination | None:
        """The plan of a network with that key, of these candidates; None if it has others."""
        replaced = {*key.split(_AND)[1:]}
        chosen = [each for each in candidates if each.key in replaced and not each.is_original]
        places = {place for each in chosen for place in range(each.start, each.end)}
        stay = [each for each in candidates if each.is_original and each.start not in places]
        found = Combination(tuple(sorted(chosen + stay, key=lambda each: each.start)))
        return found if {*found.key.split(_AND)[1:]} == replaced else None


Replacement = Candidate | Combination
"""What is evaluated: one segment replaced, or several."""


@dataclass(frozen=True)
class CandidateSpace:
    """All candidates of a network, ordered by (start, end, kernel size).

    Attributes
    ----------
    network : Network
    candidates : tuple of Candidate
    method : str
    skipped : mapping of str to int
        How many candidates were left out, by reason.
    axis : mapping of int to int
        By index of each layer that a list of entries names, its number there: the paper's
        networks are listed on the authors' axis. Empty if all layers are listed as they are.
    """

    network: Network
    candidates: tuple[Candidate, ...]
    method: str
    skipped: Mapping[str, int] = field(default_factory=dict)
    axis: Mapping[int, int] = field(default_factory=dict)

    @property
    def listed(self) -> tuple[Candidate, ...]:
        """The entries: the candidates whose layers are on the axis."""
        return tuple(c for c in self.candidates if not self.axis or c.end in self.axis)

    def place(self, candidate: Candidate) -> tuple[int, int]:
        """The positions at which an entry starts and ends on the axis."""
        if not self.axis:
            return candidate.start, candidate.end
        return self.axis[candidate.start + 1] - 1, self.axis[candidate.end]

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The distinct signatures, in order of first appearance."""
        return tuple(dict.fromkeys(candidate.signature for candidate in self.candidates))

    @property
    def original(self) -> tuple[Candidate, ...]:
        """The candidates that leave every layer as it is."""
        return tuple(candidate for candidate in self.candidates if candidate.is_original)


def check_space(network: Network, space: CandidateSpace) -> None:
    """Refuse the candidates of another network.

    Raises
    ------
    InputError
    """
    check_argument("network", network, Network)
    check_argument("space", space, CandidateSpace)
    if space.network.fingerprint != network.fingerprint:
        raise InputError(
            f"space is of another network ({space.network.name}) than {network.name}, or was "
            "traced otherwise: enumerate_candidates(network) makes its own"
        )
