"""The plots of the page as PNG, SVG or PDF, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermerge.arguments import as_path
from layermerge.errors import InputError, MissingDependencyError
from layermerge.report.comparison import headline
from layermerge.report.formats import format_latency, format_score, is_fraction
from layermerge.report.markup import typeset
from layermerge.report.parts import Role, step_role
from layermerge.results import Result
from layermerge.search_results import SegmentFinding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

KINDS = (".png", ".svg", ".pdf")
NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""So that the same result gives the same file."""
BASE, ACCENT, BUDGET = "#6b7685", "#1559b3", "#a8200d"
COLOURS = {
    Role.UNCHANGED: "#dfe5eb",
    Role.FIXED: "#e9e4d6",
    Role.MERGED: "#b5d4f8",
    Role.REMOVED: "#f0ded2",
}
HATCHES = (
    ("num_unevaluated", "not evaluated", "////"),
    ("num_failed", "fine-tune failed", "xx"),
    ("num_unprofitable", "no faster", ".."),
)
"""Of segments without a score, by what most matters of them."""


def check_image_path(path: Path) -> None:
    """Refuse a kind of file that cannot be drawn, before any work is done."""
    if path.suffix not in KINDS:
        raise InputError(
            f"cannot draw to {path}: expected a name that ends in one of {', '.join(KINDS)}"
        )


def write_image(result: Result, path: str | Path, *, only: str | None = None) -> tuple[str, ...]:
    """Draw the plots of a result.

    Parameters
    ----------
    result : Result
    path : path
        Ends in .png, .svg or .pdf.
    only : {"score", "frontier", "latency", "importance"}, optional
        One plot; by default all that there are data for.

    Returns
    -------
    tuple of str
        The plots in the picture.

    Raises
    ------
    InputError
        The file has another ending, or there are no data for the plot.
    MissingDependencyError
        matplotlib is not installed.
    """
    path = as_path("path", path)
    check_image_path(path)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report") from error
    names = _names(result, only)
    columns = 1 if len(names) == 1 else 2
    rows = -(-len(names) // columns)
    with matplotlib.rc_context({"svg.hashsalt": "layermerge", "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained")
        for number, name in enumerate(names, start=1):
            PLOTS[name](figure.add_subplot(rows, columns, number), result)
        figure.suptitle(typeset(headline(result)), wrap=True)
        figure.savefig(path, dpi=150, metadata=NO_DATE.get(path.suffix))
    return names


def _names(result: Result, only: str | None) -> tuple[str, ...]:
    missing: tuple[str, ...] = () if result.search is not None else ("frontier", "importance")
    if result.search is not None and not result.search.segments:
        missing = ("importance",)
    if only is None:
        return tuple(name for name in PLOTS if name not in missing)
    if only not in PLOTS:
        raise InputError(f"there is no plot {only!r}: choose one of {', '.join(PLOTS)}")
    if only in missing:
        raise InputError(
            f"the result holds no data for the plot {only!r}: it is of a release that did not "
            "record them. Run the compression again; what its study holds is not done again"
        )
    return (only,)


def _score(axes: Axes, result: Result) -> None:
    percent = is_fraction(result.score_name, result.base.score, result.compressed.score)
    factor = 100 if percent else 1
    for name, figures, colour in (
        ("base", result.base, BASE),
        ("compressed", result.compressed, ACCENT),
    ):
        latency_ms = figures.latency_ns / 1e6
        label = f"{name}: {typeset(format_score(figures.score, percent=percent))}"
        axes.errorbar(
            latency_ms,
            factor * figures.score,
            xerr=latency_ms * figures.latency_spread,
            fmt="o",
            capsize=4,
            color=colour,
            label=label,
        )
    _budget(axes, result)
    axes.set_xlim(left=0)
    axes.margins(y=0.4)
    axes.set(xlabel="measured latency, ms", ylabel=result.score_name + (", %" if percent else ""))
    axes.grid(alpha=0.3)
    axes.legend()


def _frontier(axes: Axes, result: Result) -> None:
    assert result.search is not None
    latencies_ms = [point.latency_ns / 1e6 for point in result.search.frontier]
    values = [point.importance for point in result.search.frontier]
    axes.step(latencies_ms, values, where="post", color=ACCENT, marker=".", linewidth=1.5)
    chosen = result.search.chosen
    axes.plot(
        chosen.latency_ns / 1e6,
        chosen.importance,
        "o",
        color=ACCENT,
        markersize=9,
        label=f"the plan: {format_latency(chosen.latency_ns)}",
    )
    _budget(axes, result)
    axes.set(
        xlabel="predicted latency, ms",
        ylabel=f"importance ({result.search.objective})",
        title="Frontier of the entries that were evaluated",
    )
    axes.grid(alpha=0.3)
    axes.legend()


def _latency(axes: Axes, result: Result) -> None:
    """The parts of both networks as predicted, their totals as measured."""
    to_ms = result.calibration / 1e6
    colours = [COLOURS[step_role(step)] for step in result.steps]
    for row, name in ((1, "before_ns"), (2, "after_ns")):
        widths = [getattr(step, name) * to_ms for step in result.steps]
        lefts = [0.0, *accumulate(widths)][:-1]
        axes.barh(
            row, widths, left=lefts, color=colours, edgecolor="white", linewidth=0.5, height=0.7
        )
    for row, figures in ((0, result.base), (3, result.compressed)):
        latency_ms = figures.latency_ns / 1e6
        axes.barh(
            row,
            latency_ms,
            xerr=latency_ms * figures.latency_spread,
            color="#8a97a6",
            height=0.5,
            capsize=3,
        )
    rows = ("base, measured", "base, predicted", "compressed, predicted", "compressed, measured")
    axes.set_yticks(range(4), rows)
    axes.invert_yaxis()
    for role in Role:
        if COLOURS[role] in colours:
            axes.barh(0, 0, color=COLOURS[role], label=role.value)
    _budget(axes, result)
    axes.set(xlabel="latency, ms")
    axes.legend(loc="lower right", fontsize="small")


def _importance(axes: Axes, result: Result) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize, TwoSlopeNorm
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    assert result.search is not None
    segments = result.search.segments
    known = [each for each in segments if each.delta is not None]
    deltas = [each.delta for each in known if each.delta is not None]
    worst, best = min(-1e-9, *deltas, 0.0), max(0.0, *deltas, 0.0)
    norm, colours = (
        (TwoSlopeNorm(0, worst, best), "PuOr") if best else (Normalize(worst, 0), "Oranges_r")
    )
    cells = PatchCollection(list(map(_cell, known)), cmap=colours, norm=norm)
    cells.set_array(deltas)
    axes.add_collection(cells)
    axes.figure.colorbar(cells, ax=axes, label=f"change of {result.score_name}")
    handles = []
    for label, hatch, members in _unscored(segments):
        style: dict[str, Any] = {"facecolor": "none", "hatch": hatch, "edgecolor": "0.6"}
        axes.add_collection(PatchCollection(list(map(_cell, members)), **style))
        handles.append(Patch(label=label, **style))
    chosen: dict[str, Any] = {"fill": False, "edgecolor": "k", "linewidth": 2}
    for each in segments:
        if each.is_chosen:
            axes.add_patch(_cell(each, **chosen))
    axes.legend(handles=[*handles, Patch(label="in the plan", **chosen)], loc="lower left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, max(each.end for each in segments) + 0.5)
    axes.set_ylim(max(each.start for each in segments) + 0.5, -0.5)
    axes.set(xlabel="segment ends at position j", ylabel="starts at position i")


def _cell(segment: SegmentFinding, **style: Any) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((segment.end - 0.5, segment.start - 0.5), 1, 1, **style)


def _unscored(
    segments: tuple[SegmentFinding, ...],
) -> Iterator[tuple[str, str, list[SegmentFinding]]]:
    """Label, hatch and members of each kind of segment without a score that there is."""
    left = [each for each in segments if each.delta is None]
    for name, label, hatch in HATCHES:
        if members := [each for each in left if getattr(each, name)]:
            yield label, hatch, members
        left = [each for each in left if each not in members]


def _budget(axes: Axes, result: Result) -> None:
    label = f"budget {format_latency(result.budget_ns)}"
    axes.axvline(result.budget_ns / 1e6, color=BUDGET, linestyle="--", linewidth=1.2, label=label)


PLOTS: dict[str, Callable[[Axes, Result], None]] = {
    "score": _score,
    "frontier": _frontier,
    "latency": _latency,
    "importance": _importance,
}
