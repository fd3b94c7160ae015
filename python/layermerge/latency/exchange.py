"""Latency tables that travel: a profile as a table file, and a table file into a study (no torch).

Beside the table, in the authors' columns, lies a document that says where it was measured and
holds what the columns have no place for: the fixed parts and the whole network.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from layermerge.arguments import as_path, check_argument
from layermerge.candidates import Candidate, CandidateSpace, Signature
from layermerge.documents import read_document, write_document
from layermerge.errors import InputError, shown
from layermerge.latency.environment import Environment
from layermerge.latency.profile import LatencyProfile
from layermerge.planning import tabulate_latency
from layermerge.store import Measurement
from layermerge.table_files import read_latency, write_latency
from layermerge.tables import Key, LatencyTable
from layermerge.typed import check_types

SCHEMA_VERSION = 3
NOTABLE_DISAGREEMENT = 1.1
"""Ratio of two latencies of one convolution from which it is told."""
MAX_DISAGREEMENT = 100.0
"""Ratio of two latencies of one convolution from which they cannot be in the same unit."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a table was measured, and what is in no column of it.

    Attributes
    ----------
    environment : Environment
    network : str
        Fingerprint of the network.
    barriers : dict of str to Measurement
        The fixed parts, by graph node.
    end_to_end : Measurement or None
    deployed : str
        Name of what was measured end to end, in a study.
    activations : tuple of str
        Kinds that are added behind merged segments.
    subjects : dict of str to str
        Names of the fixed parts in a study, by graph node.
    table_sha256 : str
        Of the table's file: one that was edited since is no longer what was measured.
    """

    environment: Environment
    network: str
    barriers: dict[str, Measurement]
    end_to_end: Measurement | None
    deployed: str
    activations: tuple[str, ...]
    subjects: dict[str, str]
    table_sha256: str


def origin_path(table: str | Path) -> Path:
    """Where the origin of a table is written: ``T.csv`` has ``T.csv.origin.json``."""
    return Path(f"{as_path('path', table)}.origin.json")


def write_profile(profile: LatencyProfile, path: str | Path) -> int:
    """Write the latencies of a profile as a table, CSV or Parquet, with its origin beside it.

    Returns
    -------
    int
        Number of entries.
    """
    check_argument("profile", profile, LatencyProfile)
    rows = {
        _key(candidate): candidate
        for candidate in reversed(profile.space.candidates)
        if profile.is_feasible(candidate)
    }
    write_latency(tabulate_latency(profile, [*reversed(rows.values())]), path)
    origin = Origin(
        profile.environment,
        profile.space.network.fingerprint,
        dict(profile.barriers),
        profile.end_to_end,
        profile.deployed,
        _added_activations(profile.space),
        dict(profile.subjects),
        _sha256(path),
    )
    write_document(origin_path(path), "table-origin", SCHEMA_VERSION, asdict(origin))
    return len(rows)


def read_origin(path: str | Path) -> Origin | None:
    """Where a table was measured, or None if nothing beside it says so."""
    document = origin_path(path)
    if not document.exists():
        return None
    return read_document(document, "table-origin", SCHEMA_VERSION, _parse)


def check_origin(
    path: str | Path,
    origin: Origin | None,
    here: Environment,
    space: CandidateSpace,
    subjects: Mapping[str, str],
    *,
    allow_foreign: bool,
) -> None:
    """Refuse a table of another network, or from elsewhere, unless that is allowed.

    Raises
    ------
    InputError
        Names what differs.
    """
    if origin is None:
        what = f"it does not say where it was measured: there is no {origin_path(path).name}"
    elif difference := origin.environment.difference(here):
        what = f"it was measured elsewhere than here: {difference}"
    elif origin.table_sha256 != _sha256(path):
        what = "it was changed since it was written: it is not what was measured"
    elif origin.network != space.network.fingerprint:
        what = (
            "it is of another network, input shape or choice of what may be removed (fingerprint "
            f"{origin.network} instead of {space.network.fingerprint})"
        )
    elif origin.activations != (added := _added_activations(space)):
        what = (
            f"{' and '.join(origin.activations) or 'nothing'} is added behind its merged segments, "
            f"and {' and '.join(added) or 'nothing'} here: give the same --boundary-activation"
        )
    elif other := [
        name for name, subject in subjects.items() if origin.subjects.get(name) != subject
    ]:
        what = f"its part {other[0]!r} has other settings or code than here, of equal shapes"
    else:
        return
    if not allow_foreign:
        raise InputError(
            f"{path} is a foreign table, {what}. Plans made by it keep their budgets where, and "
            "for what, it was measured: if that is what you want, give --allow-foreign-table"
        )
    _log.warning("%s is a foreign table, %s", path, what)


def signature_latencies(
    path: str | Path, space: CandidateSpace, barriers: Mapping[str, Measurement]
) -> dict[Signature, Measurement]:
    """Read a table as latencies of the signatures of a space.

    The latency of an entry is that of its convolution and of the `barriers` behind it, which are
    taken off as far as they are known. Where a table has several latencies for one signature, as
    one that was measured entry by entry, the median counts. Entries without a kernel size are those
    that keep every layer.

    Raises
    ------
    InputError
        If no entry is a candidate of the space, or entries that compute the same are too far apart
        to be in one unit.
    """
    table = read_latency(path)
    found: dict[Signature, list[Measurement]] = {}
    for candidate, measurement in _matched(table, space.candidates):
        tail_ns = sum(barriers[name].median_ns for name in candidate.tail if name in barriers)
        if tail_ns:
            measurement = replace(measurement, median_ns=max(1, measurement.median_ns - tail_ns))
        found.setdefault(candidate.signature, []).append(measurement)
    if not found:
        raise InputError(
            f"{path} has no entry that is a candidate of {space.network.name}, which has "
            f"{space.network.num_layers} layers: give the table of this network"
        )
    ratios = [_check_unit(path, s, [m.median_ns for m in each]) for s, each in found.items()]
    num_apart = sum(ratio > NOTABLE_DISAGREEMENT for ratio in ratios)
    if num_apart:
        _log.warning(
            "%s has %d convolutions with entries that compute the same and take up to %.2f times "
            "as long as each other: the median of each counts",
            path,
            num_apart,
            max(ratios),
        )
    return {signature: _middle(measurements) for signature, measurements in found.items()}


def _added_activations(space: CandidateSpace) -> tuple[str, ...]:
    return tuple(sorted({c.activation for c in space.candidates if c.activation}))


def _check_unit(path: str | Path, signature: Signature, latencies_ns: list[int]) -> float:
    """Refuse latencies of one convolution that no noise explains; return how far they are apart."""
    least, most = min(latencies_ns), max(latencies_ns)
    ratio = most / max(1, least)
    if ratio > MAX_DISAGREEMENT:
        raise InputError(
            f"{path} has entries that compute the same ({signature}) and take {least / 1e6:g} ms "
            f"and {most / 1e6:g} ms: is all of it in milliseconds?"
        )
    return ratio


def _matched(
    table: LatencyTable, candidates: Iterable[Candidate]
) -> Iterable[tuple[Candidate, Measurement]]:
    rows = table.entries.rows_by_key(table.source)
    for candidate in candidates:
        row = rows.get(_key(candidate))
        if row is None and len(candidate.kept) == candidate.end - candidate.start:
            row = rows.get((candidate.start, candidate.end, 0, 0, False))
        if row is not None:
            latency_ns, stdev_ns = int(table.latency_ns[row]), int(table.stdev_ns[row])
            yield candidate, Measurement(latency_ns, stdev_ns / max(1, latency_ns), 0, 0.0)


def _middle(measurements: list[Measurement]) -> Measurement:
    middle = statistics.median_low(m.median_ns for m in measurements)
    return next(m for m in measurements if m.median_ns == middle)


def _key(candidate: Candidate) -> Key:
    height, width = candidate.kernel_size
    return candidate.start, candidate.end, height, width, candidate.signature.is_depthwise


def _parse(document: Mapping[str, Any]) -> Origin:
    whole = document["end_to_end"]
    origin = Origin(
        Environment(**document["environment"]),
        document["network"],
        {name: _measurement(values) for name, values in document["barriers"].items()},
        None if whole is None else _measurement(whole, least_ns=1),
        document["deployed"],
        tuple(document["activations"]),
        document["subjects"],
        document["table_sha256"],
    )
    check_types(origin)
    return origin


def _measurement(values: Mapping[str, Any], least_ns: int = 0) -> Measurement:
    measurement = Measurement(**values)
    are_numbers = all(isinstance(value, (int, float)) for value in vars(measurement).values())
    if not (are_numbers and measurement.is_possible and measurement.median_ns >= least_ns):
        raise ValueError(
            f"a measurement must be of numbers that are at least 0, its median at least {least_ns} "
            f"and below 2^63 nanoseconds, got {shown(repr(measurement))}"
        )
    return measurement


def _sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
