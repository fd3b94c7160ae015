"""JSON documents that say what they are: a kind and the version of its schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from layermerge.arguments import as_path
from layermerge.errors import InputError, shown
from layermerge.whole_files import write_whole

T = TypeVar("T")

MOST_LEVELS = 64
"""How deeply a document may nest: far more than any does, far less than recursion bears."""


def write_document(path: str | Path, kind: str, version: int, values: Mapping[str, Any]) -> None:
    """Write `values` as a document of a kind, such as ``"plan"``."""
    document = {"schema": f"layermerge-{kind}", "schema_version": version, **values}
    file = as_path("path", path)
    try:
        write_whole(file, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"cannot write the {kind} {file}: {error.strerror}. Name a file in a folder that "
            "exists and that you may write to"
        ) from error


def read_document(
    path: str | Path,
    kind: str,
    version: int,
    parse: Callable[[dict[str, Any]], T],
    *,
    older_versions: tuple[int, ...] = (),
) -> T:
    """Read a document of a kind.

    Parameters
    ----------
    path : path
    kind : str
    version : int
    parse : callable
        Makes the value from what the document holds besides kind and version.
    older_versions : tuple of int
        That `parse` understands as well.

    Raises
    ------
    InputError
        If the file cannot be read, is something else, or does not hold what `parse` needs.
    """
    file = as_path("path", path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read as a {kind}: {error.strerror}") from error
    except ValueError as error:  # of bad encoding, of bad JSON, of numbers too long
        raise InputError(f"{path} cannot be read as a {kind}: {shown(str(error), 300)}") from error
    except RecursionError:
        document = None
        is_deep = True
    else:
        is_deep = _is_deeper(document, MOST_LEVELS)
    if is_deep:
        raise InputError(f"{path} cannot be read as a {kind}: it is nested too deeply")
    schema = f"layermerge-{kind}"
    if not isinstance(document, dict) or document.pop("schema", None) != schema:
        raise InputError(f'{path} is not a LayerMerge {kind}: it has no "schema": "{schema}"')
    found = document.pop("schema_version", None)
    if type(found) is not int or found not in (version, *older_versions):
        raise InputError(
            f"{path} has {kind} schema version {shown(str(found))}; this release reads version "
            f"{version}: install the release of layermerge that wrote it"
        )
    try:
        return parse(document)
    except KeyError as error:
        raise InputError(f"{path} is not a valid {kind}: {error} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path} is not a valid {kind}: {shown(str(error), 300)}") from error


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            item
            for holder in level
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return bool(level)
