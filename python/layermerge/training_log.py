"""What happened at each step of a training, as a CSV file or for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Step:
    """One step of a training.

    Attributes
    ----------
    step : int
        From 1.
    loss : float
    learning_rate : float
        That the step was taken with.
    seconds : float
        Since the training began, the time between a crash and a restart left out.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float


Record = Callable[[Step], None]


@contextmanager
def logging_to(
    log: str | Path | None, tensorboard: str | Path | None, before: Iterable[Step]
) -> Iterator[Record]:
    """Write steps to a CSV file, for TensorBoard, to both or to neither.

    Parameters
    ----------
    log : path or None
        A CSV file; what it held is replaced.
    tensorboard : path or None
        A folder for event files.
    before : iterable of Step
        The steps that were taken before a restart. They are written again, so that nothing is
        missing that was not on disk, and nothing is there twice.
    """
    with ExitStack() as stack:
        records: list[Record] = []
        if log is not None:
            records.append(_csv(Path(log)))
        if tensorboard is not None:
            records.append(stack.enter_context(_events(Path(tensorboard))))

        def record(step: Step) -> None:
            for write in records:
                write(step)

        for step in before:
            record(step)
        yield record


def tensorboard_writer() -> type[SummaryWriter]:
    """Torch's writer of event files.

    Raises
    ------
    MissingDependencyError
        If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("tensorboard", "tensorboard") from error
    return SummaryWriter


def _csv(path: Path) -> Record:
    def write(mode: str, *values: object) -> None:
        try:
            with path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
        except OSError as error:
            raise InputError(
                f"log {path} cannot be written: {error.strerror}. Name a file that you may write "
                "to, on a disk with space"
            ) from error

    def record(step: Step) -> None:
        numbers = f"{step.loss:.6g}", f"{step.learning_rate:.6g}", f"{step.seconds:.2f}"
        write("a", step.step, *numbers)

    write("w", *(field.name for field in fields(Step)))
    return record


@contextmanager
def _events(folder: Path) -> Iterator[Record]:
    make_writer = tensorboard_writer()
    try:
        # What earlier files hold of these steps is hidden: it is written again.
        writer = make_writer(str(folder), purge_step=1)
    except OSError as error:
        raise InputError(
            f"TensorBoard's folder {folder} cannot be written: {error.strerror}. Name a folder "
            "that you may write to"
        ) from error

    def record(step: Step) -> None:
        for name, value in asdict(step).items():
            if name != "step":
                writer.add_scalar(name, value, step.step)

    try:
        yield record
    finally:
        writer.close()
