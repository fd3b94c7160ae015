"""Draw the results of test_solver.py: time against entries and against positions, log-log.

python benchmarks/plot_solver.py RESULTS.csv docs/images/solver-scaling.svg
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FAMILIES = ("easy", "noisy", "ties", "correlated")
SOLVERS = {  # column, name, colour, marker
    "streaming_seconds": ("one pass over the table", "0.6", "_"),
    "exact_seconds": ("exact, proven", "C0", "o"),
    "frontier_seconds": ("frontier (100 points from 10^4 entries on)", "C2", "s"),
    "binned_10000_seconds": ("binned, 10,000 bins", "C4", "D"),
    "numpy_dp_seconds": ("numpy, 10,000 bins", "C5", "v"),
    "python_dp_seconds": ("plain Python, 1,000 bins", "C6", "^"),
    "cp_sat_seconds": ("CP-SAT", "C1", "x"),
    "highs_seconds": ("HiGHS", "C3", "+"),
}


def draw(axes: Axes, rows: list[dict[str, str]], against: str) -> None:
    """Draw a point for each problem, and a line through the medians of each size."""
    for column, (name, colour, marker) in SOLVERS.items():
        points = sorted((float(row[against]), float(row[column])) for row in rows if row[column])
        if not points:
            continue
        sizes = sorted({size for size, _ in points})
        groups = [[seconds for size, seconds in points if size == each] for each in sizes]
        axes.loglog(*zip(*points, strict=True), marker, color=colour, alpha=0.45, markersize=5)
        middle = [sorted(group)[len(group) // 2] for group in groups]
        axes.loglog(sizes, middle, color=colour, label=name)
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)


def main(source: Path, target: Path) -> None:
    """Read the results, write the drawing."""
    with source.open() as file:
        rows = [row for row in csv.DictReader(file) if row["family"] in FAMILIES]
    figure = Figure(figsize=(11, 5), layout="constrained")
    by_entries, by_positions = figure.subplots(1, 2, sharey=True)
    draw(by_entries, rows, "entries")
    draw(by_positions, rows, "positions")
    by_entries.set_xlabel("entries of the table")
    by_positions.set_xlabel("positions L")
    by_entries.legend(fontsize=8)
    figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
