"""Write the entries of a search space as a table, in the columns of the authors' lists."""

from __future__ import annotations

import csv
from pathlib import Path

from layermerge.arguments import as_path
from layermerge.candidates import Candidate, CandidateSpace
from layermerge.errors import InputError

COLUMNS = ("st", "end", "ker", "str", "is_dw", "in_ch", "out_ch", "in_hw")


def write_entries(path: str | Path, space: CandidateSpace) -> None:
    """Write one row for each candidate: positions, merged kernel, stride, channels, input height.

    Parameters
    ----------
    path : path
    space : CandidateSpace
        In the authors' search space positions are on their axis, and layers that are not on it
        are left out. A kernel size of 0 stands for no convolution.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    file_path = as_path("path", path)
    try:
        with file_path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            rows.writerows(sorted(_row(space, candidate) for candidate in space.listed))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _row(space: CandidateSpace, candidate: Candidate) -> tuple[int | bool, ...]:
    signature = candidate.signature
    start, end = space.place(candidate)
    return (
        start,
        end,
        candidate.kernel_size[0] if candidate.kept else 0,
        signature.stride[0],
        signature.is_depthwise,
        signature.in_channels,
        signature.out_channels,
        signature.input_size[0],
    )
