"""Keep an unfinished training on disk, and take it up where it was."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layermerge.errors import InputError
from layermerge.source_files import brief
from layermerge.whole_files import replacing

_VERSION = 5
EVERY_SECONDS = 30.0
"""Between two states that are written."""


class Checkpoint:
    """One file that holds the latest state of a training.

    Parameters
    ----------
    path : path or None
        None keeps nothing.
    identity : mapping
        What is trained and how, by name: a state of another training is refused.
    """

    def __init__(self, path: str | Path | None, identity: Mapping[str, object]) -> None:
        self.path = None if path is None else Path(path)
        self.identity = json.dumps(identity, sort_keys=True)
        self._written = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the state should be written now."""
        return self.path is not None and time.monotonic() - self._written >= EVERY_SECONDS

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the state on disk; a process that dies meanwhile leaves the old one whole."""
        assert self.path is not None
        document = {"layermerge_checkpoint": _VERSION, "identity": self.identity, **state}
        try:
            with replacing(self.path) as unfinished:
                torch.save(document, unfinished)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"checkpoint {self.path} cannot be written: {error}. Check that you may write "
                "there and that the disk has space"
            ) from error
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state on disk; None if there is none.

        Raises
        ------
        InputError
            If the file is no checkpoint, damaged, of another training, or cannot be written.
        """
        if self.path is None:
            return None
        folder = self.path.absolute().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(
                f"checkpoint {self.path} cannot be written: its folder does not exist, or may not "
                "be written to. Make it, or name another file"
            )
        if not self.path.exists():
            return None
        try:
            _check_sums(self.path)
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make unpickling raise nearly anything
            raise InputError(
                f"{self.path} cannot be read as a checkpoint ({brief(error)}): delete it to start "
                "anew"
            ) from error
        if not isinstance(state, dict) or state.get("layermerge_checkpoint") != _VERSION:
            raise InputError(
                f"{self.path} is not a checkpoint of this version of layermerge: name another "
                "file, or delete it to start anew"
            )
        if state["identity"] != self.identity:
            raise InputError(
                f"{self.path} is of another training, which differs in "
                f"{self._difference(json.loads(state['identity']))}: name another file, or delete "
                "it to start anew"
            )
        return state

    def _difference(self, there: dict[str, object]) -> str:
        here = json.loads(self.identity)
        return ", ".join(
            f"{name} ({there.get(name)} there, {here.get(name)} here)"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        )

    def remove(self) -> None:
        """Delete the file, once the training is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _check_sums(path: Path) -> None:
    """Compare every record with its sum, as `torch.load` does not."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"its record {damaged!r} is damaged")
