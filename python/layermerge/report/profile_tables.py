"""A latency profile on the terminal: what was measured, the slowest candidates, the fidelity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from layermerge.latency.environment import Environment


def print_profile(
    document: Mapping[str, Any], slowest: int, console: Console | None = None
) -> None:
    """Print what `layermerge profile --json` writes, in tables.

    Parameters
    ----------
    document : mapping
    slowest : int
        Rows of the table of candidates.
    console : rich.console.Console, optional
        By default, standard output.
    """
    console = console or Console()
    for line in _summary(document):
        console.print(line, highlight=False, soft_wrap=True)
    if slowest:
        console.print(_slowest(document["candidates"], slowest))
    if document["fidelity"]:
        console.print(_trials(document["fidelity"]))


def _summary(document: Mapping[str, Any]) -> Iterator[str]:
    effort = document["effort"]
    yield f"{document['model']} on {Environment(**document['environment'])}"
    yield (
        f"{effort['num_entries']} entries by {effort['num_units']} measurements: sharing saved "
        f"{effort['num_saved']}. {effort['num_known']} were in the study. "
        f"{effort['seconds']:.1f} s, {effort['disturbed']:.0%} of the laps repeated"
    )
    whole_ms = document["original_ms"] * document["calibration"]
    yield (
        f"original network: parts {document['original_ms']:.3f} ms, of which fixed "
        f"{document['fixed_ms']:.3f} ms; whole {whole_ms:.3f} ms (calibration "
        f"{document['calibration']:.3f})"
    )
    if document["imprecise"]:
        yield (
            f"not at the precision that was asked for: {document['imprecise']}. With --study, "
            "--refine measures them again, for as long as --max-seconds says"
        )
    for reason, count in Counter(document["failures"].values()).items():
        yield f"without a latency: {count} signatures, {reason}"


def _slowest(candidates: list[dict[str, Any]], count: int) -> Table:
    table = Table(title="Slowest candidates", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("segment:kernel:kept", "computes"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms", "± %", "replaces ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(candidates, key=lambda row: row["latency_ms"], reverse=True)
    for row in ordered[:count]:
        table.add_row(
            row["candidate"],
            row["computes"],
            f"{row['latency_ms']:.3f}",
            f"{row['spread']:.1%}",
            f"{row['replaces_ms']:.3f}",
        )
    return table


def _trials(fidelity: Mapping[str, Any]) -> Table:
    table = Table(
        title="Predicted against measured, end to end",
        caption=fidelity["summary"],
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("network")
    for heading in ("layers", "predicted ms", "measured ms", "± %", "error", "raw error"):
        table.add_column(heading, justify="right")
    for trial in fidelity["trials"]:
        table.add_row(
            trial["name"],
            str(trial["layers"]),
            f"{trial['predicted_ms']:.3f}",
            f"{trial['measured_ms']:.3f}",
            f"{trial['spread']:.1%}",
            f"{trial['error']:+.1%}",
            f"{trial['raw_error']:+.1%}",
        )
    return table
