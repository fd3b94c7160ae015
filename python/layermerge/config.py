"""Options from a TOML file: the long options of the command line, as keys.

Keys at the top are for every command that has the option, those in a table named after a command
for that command only. What the command line says goes first.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layermerge.arguments import as_path
from layermerge.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLAG = "--config"
MOST_LISTED = 20
"""Names that a message lists where none is near."""


def with_config(argv: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Put what ``--config FILE`` holds into a command line, which then no longer names it.

    Parameters
    ----------
    argv : sequence of str
        Begins with a command.
    commands : mapping of str to argparse.ArgumentParser
        The parser of each command.

    Raises
    ------
    InputError
        If the file cannot be read, or has a key that is no option or a value that suits none.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument(FLAG)
    found, rest = own.parse_known_args(list(argv))
    if found.config is None or not rest or rest[0] not in commands:
        return list(rest if found.config is None else argv)
    command, *given = rest
    values = options_for(command, read_config(found.config), commands, found.config)
    parser = commands[command]
    taken = {name.partition("=")[0] for name in given if name.startswith("--")}
    words: list[str] = []
    for name, value in values.items():
        option = _option(name)
        if not taken & {option, *_rivals(parser, option)}:
            words += _as_words(option, value, parser._option_string_actions[option], found.config)
    return [command, *words, *given]


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If it is missing or is no TOML.
    """
    file = as_path("path", path)
    try:
        return dict(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"config {path} is not valid TOML: {error}") from error


def options_for(
    command: str,
    document: Mapping[str, Any],
    commands: Mapping[str, argparse.ArgumentParser],
    path: object,
) -> dict[str, Any]:
    """The part of a config file that is for one command, by option names without dashes."""
    everywhere = {key: value for key, value in document.items() if not isinstance(value, dict)}
    all_options = {name for parser in commands.values() for name in options_of(parser)}
    for name, value in document.items():
        if isinstance(value, dict):
            check_known([name], commands.keys(), "command", path)
            check_known(value, options_of(commands[name]), f"option of {name}", path)
    check_known(everywhere, all_options, "option", path)
    own = options_of(commands[command])
    merged = {**everywhere, **document.get(command, {})}
    return {name: value for name, value in merged.items() if _option(name)[2:] in own}


def options_of(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """The long options of a command, without dashes, but those that print something and end."""
    return tuple(
        name[2:]
        for name, action in parser._option_string_actions.items()
        if name.startswith("--") and action.dest not in ("help", "version", "config")
    )


def check_known(names: Iterable[str], known: Iterable[str], what: str, path: object) -> None:
    """Refuse a name that is not among those known, and suggest one that is.

    Raises
    ------
    InputError
    """
    known = list(known)
    for name in names:
        if name.replace("_", "-") not in known:
            near = difflib.get_close_matches(name.replace("_", "-"), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if not near and len(known) <= MOST_LISTED:
                hint = f": there are {', '.join(sorted(known))}"
            raise InputError(f"config {path} has {name!r}, which is no {what}{hint}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _rivals(parser: argparse.ArgumentParser, option: str) -> set[str]:
    """Options that exclude this one: given by hand, they take its place."""
    for group in parser._mutually_exclusive_groups:
        names = {name for action in group._group_actions for name in action.option_strings}
        if option in names:
            return names - {option}
    return set()


def _as_words(option: str, value: Any, action: argparse.Action, path: object) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"config {path}: {option[2:]} must be true or false, got {value!r}")
        return [option] if value else []
    if isinstance(value, bool) or not isinstance(value, (str, int, float, list)):
        raise InputError(
            f"config {path}: {option[2:]} must be a text, a number or a list of them, got {value!r}"
        )
    each = value if isinstance(value, list) and action.nargs in ("+", "*") else [value]
    for one in each:
        _check_value(option[2:], _as_text(one), action, path)
    if not isinstance(value, list):
        return [f"{option}={value}"]
    if action.nargs in ("+", "*"):
        return [option, *map(str, value)]
    return [f"{option}={_as_text(value)}"]


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_value(name: str, text: str, action: argparse.Action, path: object) -> None:
    """Refuse what the command line would refuse, by the name of the file."""
    try:
        value = action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
        raise InputError(f"config {path}: {name}: {error}") from error
    if action.choices is not None and value not in action.choices:
        raise InputError(
            f"config {path}: {name} must be one of {', '.join(map(str, action.choices))}, got "
            f"{value!r}"
        )


def as_toml(values: Mapping[str, Any]) -> str:
    """Lines of TOML; options without a value become comments."""
    return "\n".join(
        f"# {key} =" if value is None else f"{key} = {_literal(value)}"
        for key, value in values.items()
    )


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(map(_literal, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
