"""Pages of the documentation that are made from the package: command line, API, measurements."""

from __future__ import annotations

import argparse
import re

import layermerge
from layermerge.cli import build_parser

USAGE_WIDTH = 88
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

GROUPS = {
    "The whole way": "compress Options Compression Result load_model",
    "Network and search space": "trace Network SearchSpace CandidateSpace enumerate_candidates",
    "Latency": "measure_latency measure_modules LatencyOptions Roofline LatencyProfile",
    "Importance": "find_plans FoundPlans SearchOptions estimate_importance ImportanceScores "
    "merge_least_squares",
    "Plans": "make_plan Budget Plan load_plan original_plan",
    "Rewrite, fine-tune, merge": "rewrite finetune merge",
    "Save and load": "save load export_onnx export_pt2 Exported",
    "The solver, without torch": "solve solve_many frontier Selection Frontier LatencyTable "
    "ImportanceTable read_latency read_importance write_latency write_importance",
    "Study": "Study",
    "Errors": "LayerMergeError InputError UnsupportedModelError InfeasibleError",
}
"""Names of the API by subject; what is in none goes under its own heading at the end."""


def api_page() -> str:
    """Directives that document every public name."""
    known = {name for names in GROUPS.values() for name in names.split()}
    others = [name for name in layermerge.__all__ if name not in known]
    groups = {**GROUPS, **({"Others": " ".join(others)} if others else {})}
    lines = ["# API reference", "", "Every name is there as `layermerge.NAME`.", ""]
    for title, names in groups.items():
        lines += [f"## {title}", ""]
        for name in names.split():
            if name in layermerge.__all__:
                lines += [f"::: layermerge.{name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """What `--help` says of every command."""
    parser, commands = build_parser()
    lines = ["# Command line", "", parser.description or "", "", parser.epilog or "", ""]
    lines += ["| command | what it does |", "|---|---|"]
    for name, command in commands.items():
        lines.append(f"| [`{name}`](#layermerge-{name}) | {_cell(command.description or '')} |")
    for command in commands.values():
        lines += ["", *_command(command)]
    return "\n".join(lines) + "\n"


def _command(parser: argparse.ArgumentParser, level: int = 2, summary: str = "") -> list[str]:
    lines = [f"{'#' * level} {parser.prog}", "", parser.description or summary, ""]
    lines += ["```", _usage(parser), "```", ""]
    nested: list[str] = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
                for name, child in action.choices.items():
                    nested += ["", *_command(child, level + 1, helps.get(name, ""))]
            elif not isinstance(action, argparse._HelpAction):
                rows.append(f"| {_names(action)} | {_cell(_help(parser, action))} |")
        if rows:
            title = (group.title or "").capitalize()
            lines += [f"| {title} | |", "|---|---|", *rows, ""]
    if parser.epilog:
        lines += ["```", parser.epilog.strip(), "```", ""]
    return lines + nested


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=USAGE_WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return COLOUR.sub("", formatter.format_help()).strip()


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices is not None and action.metavar is None:
        value = ",".join(map(str, action.choices))
        value = f"{{{value}}}"
    names = ", ".join(action.option_strings)
    # A break between names and value, since tables are narrow on phones.
    parts = [part for part in (names, str(value)) if part]
    return " ".join(f"`{part}`" for part in parts)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    if not action.help:
        return ""
    return COLOUR.sub("", parser._get_formatter()._expand_help(action))


def _cell(text: str) -> str:
    """Text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def results_page(results: dict[str, str]) -> str:
    """A list of the benchmark results, newest first."""
    lines = ["# Measurements", "", "Each with its date and machine.", ""]
    for uri, text in sorted(results.items(), reverse=True):
        title = next(line for line in text.splitlines() if line.startswith("# "))[2:]
        name = uri.rpartition("/")[2]
        lines.append(f"- {name[:10]}: [{title}]({name})")
    return "\n".join(lines) + "\n"
