"""The exceptions LayerMerge raises on purpose: each says what was wrong and what to do."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path


class LayerMergeError(Exception):
    """Base class of every error that LayerMerge raises on purpose."""


class InputError(LayerMergeError, ValueError):
    """An argument, a file or an option is not what was expected."""


class ExampleError(InputError):
    """The model does not run on the example inputs.

    Attributes
    ----------
    problem : str
        The message without the advice, which differs with where the inputs come from.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}. Give example_inputs of the shape and dtype it is used with")
        self.problem = problem


class UnsupportedModelError(LayerMergeError):
    """The model cannot be traced, or cannot be changed as asked."""


class NoLayersError(UnsupportedModelError):
    """The model has no convolution that can be changed; the message says what stops each."""


class InfeasibleError(LayerMergeError):
    """No plan meets the budget.

    Attributes
    ----------
    least_latency_ns : int
        Latency of the fastest plan: the least budget that can be met.
    """

    def __init__(self, message: str, least_latency_ns: int) -> None:
        super().__init__(message)
        self.least_latency_ns = least_latency_ns


class VerificationError(LayerMergeError):
    """The merged network does not compute what the rewritten network computes."""


class TrainingError(LayerMergeError):
    """Training diverged."""


class MeasurementError(LayerMergeError):
    """A latency cannot be measured."""


class MissingDependencyError(LayerMergeError, ImportError):
    """A dependency is needed and not installed: one that an extra brings, or layermerge itself."""

    def __init__(self, package: str, extra: str = "") -> None:
        source = f"'layermerge[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed, and this needs it: pip install {source}")


_OWN = {"numpy", "rich", "safetensors", "torch"}


def missing(error: ModuleNotFoundError) -> ImportError:
    """The error that says what to install, where a dependency of layermerge itself is missing.

    Examples
    --------
    >>> missing(ModuleNotFoundError("No module named 'torch'", name="torch"))
    MissingDependencyError('torch is not installed, and this needs it: pip install torch')
    """
    package = (error.name or "").partition(".")[0]
    return MissingDependencyError(package) if package in _OWN else error


def shown(text: str, most: int = 80) -> str:
    """Somebody else's text as a part of an error: in one line, and not too long.

    Examples
    --------
    >>> shown(f"one{chr(10)}two"), shown("a" * 99, most=8)
    ('one two', 'aaaaa...')
    """
    line = "".join(character if character.isprintable() else " " for character in text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 3]}..."


def described(error: BaseException) -> str:
    """Somebody else's exception as text: its type and what it says, if it can say anything."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # whatever its own __str__ meets
        return type(error).__name__


def located(error: BaseException) -> str:
    """Somebody else's exception as text, and the line of their code that it comes from.

    That is the innermost one outside of Python, installed packages and layermerge. What layermerge
    itself raises says all there is to say.
    """
    if isinstance(error, LayerMergeError):
        return described(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(Path(frame.filename))]
    return described(error) + (f" ({own[-1].filename}, line {own[-1].lineno})" if own else "")


def _is_installed(path: Path) -> bool:
    homes = Path(__file__).parent, Path(sysconfig.get_path("stdlib"))
    is_made = path.name.startswith("<")  # code without a file
    is_package = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return is_made or is_package or any(map(path.is_relative_to, homes))
