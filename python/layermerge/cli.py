"""The `layermerge` command.

Each subcommand is a module of `layermerge.commands` with `SUMMARY`, `add_arguments(parser)` and
`run(arguments) -> exit status`; listing it in `COMMANDS` adds it.

Exit status: 0 done, 2 bad usage or bad input, 3 infeasible budget, 1 any other error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import layermerge
from layermerge.commands import (
    compress,
    demo,
    export,
    frontier,
    importance,
    inspect,
    profile,
    solve,
    table,
)
from layermerge.errors import InfeasibleError, InputError, LayerMergeError

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "inspect": inspect,
    "profile": profile,
    "table": table,
    "compress": compress,
    "export": export,
    "importance": importance,
    "solve": solve,
    "frontier": frontier,
}

DONE, FAILED, BAD_INPUT, INFEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough
        _discard_unwritten_output()
        return FAILED
    except OSError as error:
        _discard_unwritten_output()
        print(f"layermerge {arguments.command}: error: {_explained(error)}", file=sys.stderr)
        return BAD_INPUT
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        status: int = COMMANDS[arguments.command].run(arguments)
    except LayerMergeError as error:
        print(f"layermerge {arguments.command}: error: {error}", file=sys.stderr)
        return _exit_status(error)
    except KeyboardInterrupt:
        print(f"layermerge {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="layermerge",
        description="Make convolutional networks faster by making them shallower.",
        epilog="Exit status: 0 done, 1 failed, 2 bad usage or bad input, 3 infeasible budget.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(
            subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        )
    return parser


def _version() -> str:
    return str(layermerge.__version__)


def _discard_unwritten_output() -> None:
    """Keep the interpreter from writing again, when it ends, what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ", or write the output"
    return (
        f"cannot read or write{where}: {error.strerror or error}. Check that the place exists, "
        "that you may write there and that it has space"
    )


def _exit_status(error: LayerMergeError) -> int:
    if isinstance(error, InfeasibleError):
        return INFEASIBLE
    return BAD_INPUT if isinstance(error, InputError) else FAILED
