"""`layermerge config show COMMAND`: the options of a command, as a config file has them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from layermerge.commands.json_output import print_document

SUMMARY = "Show the options of a command as a config file has them."

EPILOG = """\
A config file is TOML; its keys are the long options of the commands:

  seed = 1                  for every command that has --seed
  [compress]
  data = "digits"
  speedup = 1.5
  max-kernel = 5

Use it as `layermerge compress MODEL --config FILE`. What the command line says goes first.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print every option with its value")
    show.add_argument("of", metavar="COMMAND", help="such as compress")
    show.add_argument("--file", metavar="FILE.toml", help="a config file, over the defaults")
    show.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Print the effective options."""
    from layermerge.config import as_toml

    values = effective(arguments.of, arguments.file, arguments.parsers)
    if arguments.json:
        print_document(values)
    else:
        print(f"[{arguments.of}]\n{as_toml(values)}")
    return 0


def effective(
    command: str, path: str | None, parsers: Mapping[str, argparse.ArgumentParser]
) -> dict[str, Any]:
    """The value of each option of a command: its default, or what a file says."""
    from layermerge.config import check_known, options_for, options_of, read_config

    check_known([command], parsers, "command", "show")
    parser = parsers[command]
    values = {
        name: _plain(parser.get_default(parser._option_string_actions[f"--{name}"].dest))
        for name in options_of(parser)
    }
    if path is not None:
        found = options_for(command, read_config(path), parsers, path)
        values |= {name.replace("_", "-"): value for name, value in found.items()}
    return values


def _plain(value: Any) -> Any:
    is_plain = isinstance(value, (str, int, float, type(None)))
    return value if is_plain else [_plain(each) for each in value]
