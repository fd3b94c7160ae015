"""The latency profile of a network: what every candidate and every fixed part costs (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from layermerge.arguments import check_argument
from layermerge.candidates import Candidate, CandidateSpace, Signature
from layermerge.errors import InputError
from layermerge.latency.environment import Environment
from layermerge.store import Measurement

HOPELESS = 2.0
"""How many times slower than what it replaces a candidate must be to need no precise latency."""
MAX_WORK = 16.0
"""How many times the FLOPs of what it replaces make a candidate not worth running even once."""
CREDIBLE_CALIBRATION = 1.25
"""How far, as a factor, a whole network may be from the sum of its parts."""


@dataclass(frozen=True)
class Effort:
    """What it took to measure.

    Attributes
    ----------
    num_entries : int
        Candidates and barriers that have a latency, and the whole network.
    num_units : int
        Distinct ones among them: what is measured.
    num_known : int
        How many of these the study held.
    seconds : float
    disturbed : float
        Part of the laps that were timed again because something disturbed them.
    drift : float
        How many times slower the machine became, by its sentinel; latencies are corrected for it.
    """

    num_entries: int = 0
    num_units: int = 0
    num_known: int = 0
    seconds: float = 0.0
    disturbed: float = 0.0
    drift: float = 1.0

    @property
    def num_saved(self) -> int:
        """How many measurements it saved to measure equal things once."""
        return self.num_entries - self.num_units


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
    failures : mapping of Signature to str
        Signatures that have no latency, and why: their candidates cannot be chosen.
    effort : Effort
    deployed : str
        Name of what was measured end to end, in a study; empty if nothing was.
    subjects : mapping of str to str
        Names of the barriers in a study, by graph node: equal ones share a measurement.
    """

    space: CandidateSpace
    environment: Environment
    convolutions: Mapping[Signature, Measurement]
    barriers: Mapping[str, Measurement]
    end_to_end: Measurement | None = None
    failures: Mapping[Signature, str] = field(default_factory=dict)
    effort: Effort = Effort()
    deployed: str = ""
    subjects: Mapping[str, str] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> int:
        """Latency of a candidate, in nanoseconds."""
        check_argument("candidate", candidate, Candidate)
        tail_ns = sum(self.barriers[name].median_ns for name in candidate.tail)
        return self.measurement_of(candidate).median_ns + tail_ns

    def measurement_of(self, candidate: Candidate) -> Measurement:
        """What was measured for a candidate's convolution."""
        found = self.convolutions.get(candidate.signature)
        if found is None:
            reason = self.failures.get(candidate.signature)
            raise InputError(
                f"candidate {candidate.key} has no latency: {reason}"
                if reason
                else f"candidate {candidate.key} was not measured: the profile is of another "
                "candidate space"
            )
        return found

    def is_feasible(self, candidate: Candidate) -> bool:
        """Whether a candidate runs on the device."""
        return candidate.signature not in self.failures

    @property
    def fixed_ns(self) -> int:
        """Latency of the barriers that every plan pays."""
        removable = {b.name for b in self.space.network.barriers if b.is_removable}
        return sum(m.median_ns for name, m in self.barriers.items() if name not in removable)

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

    @property
    def doubt(self) -> str | None:
        """Why predictions of plans are rough, where the sum of the parts is far from the whole."""
        factor = float(self.calibration)
        if 1 / CREDIBLE_CALIBRATION <= factor <= CREDIBLE_CALIBRATION:
            return None
        shown = f"{factor:.2f}" if factor >= 0.1 else f"{factor:.2g}"
        rough = (
            f"the whole network takes {shown} times the sum of its parts, so that predictions "
            "of plans are rough: "
        )
        if factor > 1:
            return (
                f"{rough}what happens between operations weighs too much here. A larger batch, or "
                "a backend that starts operations faster, brings the two together"
            )
        return (
            f"{rough}together they run faster than each alone, as very small ones do, or those "
            "that a compiler fuses; or they are of another device or network. If a table was "
            "imported, check it; else a larger batch, or --refine, may bring the two together"
        )

    def imprecise(self, target_rsd: float) -> tuple[str, ...]:
        """Names of what did not reach a precision that it needs before the time was up."""
        found = self.convolutions
        needless = hopeless(self.space, {s: m.median_ns for s, m in found.items()})
        parts = {str(s): m for s, m in found.items() if s not in needless}
        fixed = {f"barrier {name}": m for name, m in self.barriers.items()}
        whole = {} if self.end_to_end is None else {"the whole network": self.end_to_end}
        everything = [*parts.items(), *fixed.items(), *whole.items()]
        return tuple(name for name, m in everything if m.spread > target_rsd)

    def replaced_ns(self, candidate: Candidate) -> int:
        """Latency of the original layers that a candidate replaces."""
        return sum(
            self.of(original)
            for original in self.space.original
            if candidate.start < original.end <= candidate.end
        )

    def unprofitable(self) -> frozenset[Candidate]:
        """The candidates that do not run, or are no faster than the layers they replace."""
        return frozenset(
            candidate
            for candidate in self.space.candidates
            if not candidate.is_original
            and not (
                self.is_feasible(candidate) and self.of(candidate) < self.replaced_ns(candidate)
            )
        )

    def choosable(self) -> tuple[Candidate, ...]:
        """The candidates that are worth a fine-tune, and the original ones."""
        skipped = self.unprofitable()
        return tuple(each for each in self.space.candidates if each not in skipped)


def hopeless(space: CandidateSpace, estimates_ns: Mapping[Signature, int]) -> frozenset[Signature]:
    """The signatures that are far slower than the original layers wherever they would stand.

    Parameters
    ----------
    space : CandidateSpace
    estimates_ns : mapping of Signature to int
        A rough latency of the signatures that have run.
    """
    costs = {s: float(ns) for s, ns in estimates_ns.items()}
    return _dearer_everywhere(space, costs, HOPELESS)


def overworked(space: CandidateSpace) -> frozenset[Signature]:
    """The signatures with so many FLOPs that no device runs them faster than what they replace."""
    return _dearer_everywhere(space, {s: float(s.flops) for s in space.signatures}, MAX_WORK)


def _dearer_everywhere(
    space: CandidateSpace, costs: Mapping[Signature, float], factor: float
) -> frozenset[Signature]:
    """Signatures whose cost is above `factor` times that of the layers, for all who have them."""
    total = [0.0]
    originals = {candidate.end: candidate.signature for candidate in space.original}
    for layer in range(1, space.network.num_layers + 1):
        total.append(total[-1] + costs.get(originals[layer], float("inf")))
    is_worth = {
        c.signature
        for c in space.candidates
        if c.is_original
        or costs.get(c.signature, 0.0) <= factor * (total[c.end] - total[c.start])
        or total[c.end] == float("inf")
    }
    return frozenset(costs.keys() - is_worth)
