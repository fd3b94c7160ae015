"""A result on the terminal, or in a file that it is piped to: 80 columns, no colour needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layermerge.report.comparison import Row, compare, notes
from layermerge.report.formats import bare_ms, count
from layermerge.report.parts import Role, parts_of, positions
from layermerge.results import Result, Step

MARKS = {Role.FIXED: "|", Role.UNCHANGED: " ", Role.MERGED: "+", Role.REMOVED: "-"}
LEGEND = "+ merged into one convolution    - removed    | fixed part    others unchanged"


def print_result(result: Result, console: Console | None = None) -> None:
    """Print base against compressed, then the plan layer by layer.

    Parameters
    ----------
    result : Result
    console : rich.console.Console, optional
        By default, standard output.
    """
    console = console or Console()
    text = partial(_writable, encoding=console.encoding)
    for table in (_comparison(result, text), _plan(result, text)):
        console.print(table)
        console.print()


def _writable(content: str, encoding: str) -> Text:
    """Text in the characters of an encoding, such as that of a pipe on Windows."""
    if not encoding.lower().startswith("utf"):
        content = content.replace("±", "+/-").encode(encoding, "replace").decode(encoding)
    return Text(content)


def _comparison(result: Result, text: Callable[[str], Text]) -> Table:
    table = _table(text(f"{result.name}: base and compressed"), text("\n".join(notes(result))))
    table.add_column("")
    for heading in ("base", "compressed", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in compare(result):
        table.add_row(*map(text, _cells(row)), style=_style(row, result))
    return table


def _cells(row: Row) -> tuple[str, str, str, str]:
    return row.quantity, row.base, row.compressed, row.change


def _style(row: Row, result: Result) -> str:
    if row.quantity == "budget":
        return "bold green" if result.is_within_budget else "bold red"
    return "bold" if row.quantity == "speed-up" else ""


def _plan(result: Result, text: Callable[[str], Text]) -> Table:
    before, after = result.base.layers, result.compressed.layers
    title = f"The plan: {count(before, 'convolution')} -> {after}"
    table = _table(text(title), text(_plan_caption(result)))
    table.add_column("positions", no_wrap=True)
    table.add_column("layers", overflow="fold", ratio=1)
    table.add_column("computes now", overflow="fold", ratio=1)
    table.add_column("before ms", justify="right", no_wrap=True)
    table.add_column("after ms", justify="right", no_wrap=True)
    for step in result.steps:
        table.add_row(*map(text, _step_cells(step)))
    table.add_section()
    table.add_row("sum", "", "", *map(bare_ms, _sums(result.steps)))
    return table


def _step_cells(step: Step) -> tuple[str, ...]:
    layers = "\n".join(f"{MARKS[part.role]} {part.name}" for part in parts_of(step))
    latencies = bare_ms(step.before_ns), bare_ms(step.after_ns)
    return positions(step), layers, step.description, *latencies


def _sums(steps: Iterable[Step]) -> tuple[int, int]:
    steps = tuple(steps)
    return sum(step.before_ns for step in steps), sum(step.after_ns for step in steps)


def _plan_caption(result: Result) -> str:
    return (
        f"{LEGEND}\nEach part measured alone; the sum times {result.calibration:.3f} is the "
        "predicted latency."
    )


def _table(title: Text, caption: Text) -> Table:
    return Table(
        title=title,
        caption=caption,
        title_style="bold",
        caption_style="dim",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
