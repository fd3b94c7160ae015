"""Predicted against measured, drawn: an image by matplotlib, or a page by plotly (no torch)."""

from __future__ import annotations

from pathlib import Path

from layermerge.errors import InputError
from layermerge.frontier_plot import check_plot_path
from layermerge.latency.fidelity import Fidelity
from layermerge.whole_files import replacing

__all__ = ["check_plot_path", "plot_fidelity"]


def plot_fidelity(fidelity: Fidelity, path: Path) -> None:
    """Draw each network's calibrated prediction over what was measured; on the line they agree.

    Raises
    ------
    InputError
        The file's name has another ending than .png, .svg, .pdf or .html, or cannot be written.
    MissingDependencyError
        matplotlib, or for .html plotly, is not installed.
    """
    check_plot_path(path)
    draw = _page if path.suffix == ".html" else _image
    try:
        with replacing(path) as unfinished:
            draw(fidelity, unfinished)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _points(fidelity: Fidelity) -> tuple[list[str], list[float], list[float]]:
    trials = fidelity.trials
    predicted_ms = [trial.predicted_ns * fidelity.calibration / 1e6 for trial in trials]
    return [t.name for t in trials], [t.measured_ns / 1e6 for t in trials], predicted_ms


def _image(fidelity: Fidelity, path: Path) -> None:
    from matplotlib.figure import Figure

    _, measured_ms, predicted_ms = _points(fidelity)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="measured [ms]", ylabel="predicted [ms]", title="Sum of parts against the whole"
    )
    axes.axline((0, 0), slope=1, color="0.6", linewidth=1)
    axes.scatter(measured_ms[1:], predicted_ms[1:], label="plans")
    axes.scatter(measured_ms[:1], predicted_ms[:1], label="original", marker="s")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _page(fidelity: Fidelity, path: Path) -> None:
    from plotly import graph_objects

    names, measured_ms, predicted_ms = _points(fidelity)
    ends = [0.0, max(*measured_ms, *predicted_ms)]
    figure = graph_objects.Figure(
        [
            graph_objects.Scatter(x=ends, y=ends, mode="lines", name="agreement"),
            graph_objects.Scatter(
                x=measured_ms, y=predicted_ms, text=names, mode="markers", name="networks"
            ),
        ]
    )
    figure.update_layout(xaxis_title="measured [ms]", yaxis_title="predicted [ms]")
    figure.write_html(path, include_plotlyjs=True)
