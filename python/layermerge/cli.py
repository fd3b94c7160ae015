"""The `layermerge` command.

Each subcommand is a module of `layermerge.commands` with `SUMMARY`, `add_arguments(parser)` and
`run(arguments) -> exit status`; listing it in `COMMANDS` adds it. `IF_INTERRUPTED` is what to say
after Ctrl-C.

Exit status: 0 done, 2 bad usage or bad input, 3 infeasible budget, 1 any other error.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from types import ModuleType

import layermerge
from layermerge.commands import (
    completion,
    compress,
    config,
    demo,
    doctor,
    export,
    frontier,
    importance,
    inspect,
    plot,
    profile,
    report,
    solve,
    table,
)
from layermerge.commands.json_output import only_documents
from layermerge.commands.options import add_verbosity, set_verbosity
from layermerge.config import FLAG, with_config
from layermerge.errors import InfeasibleError, InputError, LayerMergeError, missing

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "inspect": inspect,
    "profile": profile,
    "table": table,
    "compress": compress,
    "report": report,
    "plot": plot,
    "export": export,
    "importance": importance,
    "solve": solve,
    "frontier": frontier,
    "config": config,
    "doctor": doctor,
    "completion": completion,
}

DONE, FAILED, BAD_INPUT, INFEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser, commands = build_parser()
    try:
        words = with_config(sys.argv[1:] if argv is None else argv, commands)
    except InputError as error:
        print(f"layermerge: error: {error}", file=sys.stderr)
        return BAD_INPUT
    arguments = parser.parse_args(words)
    arguments.parser, arguments.parsers = parser, commands
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
    set_verbosity(arguments)
    try:
        status = _run_command(arguments)
    except LayerMergeError as error:
        if arguments.verbose:
            traceback.print_exc()
        print(f"layermerge {arguments.command}: error: {error}", file=sys.stderr)
        return _exit_status(error)
    except KeyboardInterrupt:
        again = getattr(COMMANDS[arguments.command], "IF_INTERRUPTED", "")
        print(f"layermerge {arguments.command}: interrupted{again}", file=sys.stderr)
        return INTERRUPTED
    return status


def _run_command(arguments: argparse.Namespace) -> int:
    try:
        with only_documents() if getattr(arguments, "json", False) else nullcontext():
            status: int = COMMANDS[arguments.command].run(arguments)
    except ModuleNotFoundError as error:
        raise missing(error) from error
    return status


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser, and those of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="layermerge",
        description="Make convolutional networks faster by making them shallower.",
        epilog="Exit status: 0 done, 1 failed, 2 bad usage or bad input, 3 infeasible budget.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {}
    for name, command in COMMANDS.items():
        own = subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        command.add_arguments(own)
        leaves = _actions_of(own)
        if leaves == [own]:
            own.add_argument(FLAG, metavar="FILE.toml", help="take options from a config file")
        for leaf in leaves:
            add_verbosity(leaf)
        commands[name] = own
    return parser, commands


def _actions_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of a command's actions, or its own if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices.values())
    return [parser]


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
