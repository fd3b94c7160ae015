"""One JSON document on standard output, and nothing else (no torch)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from typing import Any, TextIO


class _Aside(TextIOBase):
    """Takes what models, data sets and libraries print, to standard error."""

    def __init__(self, document: TextIO) -> None:
        self.document = document

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def only_documents() -> Iterator[None]:
    """Keep standard output for `print_document` for the time of a block."""
    with redirect_stdout(_Aside(sys.stdout)):
        yield


def print_document(document: Any) -> None:
    """Print a document on standard output."""
    out = sys.stdout.document if isinstance(sys.stdout, _Aside) else sys.stdout
    json.dump(document, out, allow_nan=False)  # as it goes: a frontier may be long
    print(file=out, flush=True)
