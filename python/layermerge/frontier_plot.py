"""Drawings of a frontier: an image by matplotlib, or a page by plotly."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from layermerge.errors import InputError, MissingDependencyError
from layermerge.solver import Frontier

IMAGES = (".png", ".svg", ".pdf")


def check_plot_path(path: Path) -> None:
    """Refuse a file that cannot be drawn, before any work is done.

    Raises
    ------
    InputError
        The file's name has another ending than .png, .svg, .pdf or .html, or it has no folder.
    MissingDependencyError
        matplotlib, or for .html plotly, is not installed.
    """
    if path.suffix not in (*IMAGES, ".html"):
        kinds = ", ".join((*IMAGES, ".html"))
        raise InputError(f"cannot draw to {path}: expected a name that ends in one of {kinds}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: its folder does not exist")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: it is a folder, or may not be written to")
    library = "plotly" if path.suffix == ".html" else "matplotlib"
    if find_spec(library) is None:
        raise MissingDependencyError(library, "report")


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Draw importance over latency as steps: what each budget buys.

    Raises
    ------
    InputError
        The file's name has another ending than .png, .svg, .pdf or .html.
    MissingDependencyError
        matplotlib, or for .html plotly, is not installed.
    """
    check_plot_path(path)
    latency_ms = frontier.latency_ns / 1e6
    if path.suffix == ".html":
        _page(latency_ms.tolist(), frontier.value.tolist(), path)
    else:
        _image(latency_ms.tolist(), frontier.value.tolist(), path)


def _image(latency_ms: list[float], value: list[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="latency budget [ms]", ylabel="importance", title=f"{len(value)} selections"
    )
    axes.step(latency_ms, value, where="post")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _page(latency_ms: list[float], value: list[float], path: Path) -> None:
    from plotly import graph_objects

    line = graph_objects.Scatter(x=latency_ms, y=value, line={"shape": "hv"}, mode="lines+markers")
    figure = graph_objects.Figure(line)
    figure.update_layout(xaxis_title="latency budget [ms]", yaxis_title="importance")
    figure.write_html(path, include_plotlyjs=True)
