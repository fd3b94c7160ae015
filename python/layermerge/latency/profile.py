"""The latency profile of a network: what every candidate and every fixed part costs (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction

from layermerge.candidates import Candidate, CandidateSpace, Signature
from layermerge.errors import InputError
from layermerge.store import Measurement


@dataclass(frozen=True)
class Environment:
    """Where and how latencies were measured. Equal environments share their measurements.

    Attributes
    ----------
    backend : str
        What runs the network, such as ``"torch-eager"``, and its version.
    device : str
        ``"cpu"`` or ``"cuda"``, and the name of the processor.
    dtype : str
    batch : int
        Inputs per call.
    threads : int
        Threads within an operation; CPU only, 0 elsewhere.
    clock : str
        What times are of: wall clock, CPU time (of the one thread), CUDA events.
    """

    backend: str
    device: str
    dtype: str
    batch: int
    threads: int
    clock: str = "wall clock"

    @property
    def fingerprint(self) -> str:
        """The key under which a study keeps measurements."""
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        threads = f", {self.threads} thread{plural}" if self.threads else ""
        setting = f"{self.device}, {self.backend}, {self.dtype}, batch {self.batch}"
        return f"{setting}{threads}, {self.clock}"


HOPELESS = 2.0
"""How many times slower than what it replaces a candidate must be to need no precise latency."""


@dataclass(frozen=True)
class LatencyProfile:
    """Latencies of a candidate space.

    Attributes
    ----------
    space : CandidateSpace
    environment : Environment
    convolutions : mapping of Signature to Measurement
        One per distinct signature, shared by the candidates that have it.
    barriers : mapping of str to Measurement
        The fixed parts, by graph node.
    end_to_end : Measurement or None
        The original network as it would be deployed, if it was given.
    num_known : int
        How many of all measurements came from the study.
    """

    space: CandidateSpace
    environment: Environment
    convolutions: Mapping[Signature, Measurement]
    barriers: Mapping[str, Measurement]
    end_to_end: Measurement | None = None
    num_known: int = 0

    def of(self, candidate: Candidate) -> int:
        """Latency of a candidate, in nanoseconds."""
        if candidate.signature not in self.convolutions:
            raise InputError(
                f"candidate {candidate.key} was not measured: the profile is of another candidate "
                "space"
            )
        tail_ns = sum(self.barriers[name].median_ns for name in candidate.tail)
        return self.convolutions[candidate.signature].median_ns + tail_ns

    @property
    def fixed_ns(self) -> int:
        """Latency of the barriers that every plan pays."""
        barriers = self.space.network.barriers
        return sum(self.barriers[b.name].median_ns for b in barriers if not b.is_removable)

    @property
    def original_ns(self) -> int:
        """Predicted latency of the original network."""
        return self.fixed_ns + sum(map(self.of, self.space.original))

    @property
    def calibration(self) -> Fraction:
        """Measured over predicted latency of the original network; 1 if it was not measured.

        Exact, so that no rounding takes a prediction past the budget it was chosen for.
        """
        if self.end_to_end is None:
            return Fraction(1)
        return Fraction(self.end_to_end.median_ns, self.original_ns)

    def replaced_ns(self, candidate: Candidate) -> int:
        """Latency of the original layers that a candidate replaces."""
        return sum(
            self.of(original)
            for original in self.space.original
            if candidate.start < original.end <= candidate.end
        )

    def unprofitable(self) -> frozenset[Candidate]:
        """The candidates that are no faster than the original layers they replace."""
        return frozenset(
            candidate
            for candidate in self.space.candidates
            if not candidate.is_original and self.of(candidate) >= self.replaced_ns(candidate)
        )


def hopeless(space: CandidateSpace, estimates_ns: Mapping[Signature, int]) -> frozenset[Signature]:
    """The signatures that are far slower than the original layers wherever they would stand.

    Parameters
    ----------
    space : CandidateSpace
    estimates_ns : mapping of Signature to int
        A rough latency of every signature.
    """
    original_ns = {c.end: estimates_ns[c.signature] for c in space.original}
    is_worth = {
        c.signature
        for c in space.candidates
        if c.is_original
        or estimates_ns[c.signature]
        <= HOPELESS * sum(original_ns[layer] for layer in range(c.start + 1, c.end + 1))
    }
    return frozenset(estimates_ns.keys() - is_worth)
