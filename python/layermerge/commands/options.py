"""Options and option types that several subcommands share."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import layermerge.candidates
from layermerge.errors import InputError
from layermerge.latency.options import BACKENDS, DTYPES, MOST_THREADS, LatencyOptions, Roofline

if TYPE_CHECKING:
    from torch import Tensor

    from layermerge.search_space import SearchSpace


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the model, its weights and its input."""
    parser.add_argument(
        "model",
        nargs="?" if optional else None,
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, diffusers:NAME, package.module:function or "
        "path/to/file.py:function; a function may return the model with its example inputs",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="safetensors file or torch state dict to load into it"
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="download the library's pretrained weights"
    )


def add_space(parser: argparse.ArgumentParser) -> None:
    """Add what restricts the search space."""
    group = parser.add_argument_group("search space")
    group.add_argument(
        "--space",
        choices=layermerge.candidates.SPACES,
        default="general",
        help="paper: the authors' space, for ResNet-34 and -50, MobileNetV2, VGG-19 and the DDPM "
        "U-Net; default: general",
    )
    group.add_argument(
        "--remove",
        type=words,
        metavar="W,W,...",
        help="what may be removed besides convolutions: activation, gate (squeeze-excite), norm "
        "(group norm, layer norm); default: activation, in the paper's space activation,norm",
    )
    group.add_argument(
        "--method",
        choices=layermerge.candidates.METHODS,
        default="layermerge",
        help="depth keeps every convolution, layer_only merges none; default: layermerge",
    )
    group.add_argument(
        "--max-kernel", type=at_least(1), metavar="K", help="largest merged kernel, in pixels"
    )
    group.add_argument(
        "--max-segment", type=at_least(1), metavar="N", help="most layers in a segment"
    )
    group.add_argument(
        "--max-flops-ratio",
        type=at_least_zero,
        metavar="R",
        help="leave out what takes more than R times the FLOPs of the layers that it replaces; "
        "default: 2, in the paper's space 0, which sets no limit",
    )
    group.add_argument(
        "--frozen",
        type=layers,
        default=(),
        metavar="L,L,...",
        help="layers left as they are, by number or name, such as 1,layer1.0.conv1; the name of a "
        "module stands for all of its layers",
    )
    group.add_argument(
        "--breaks",
        type=integers,
        metavar="P,P,...",
        help="positions not to merge across; in the paper's space on the authors' axis",
    )
    group.add_argument(
        "--keep-branches",
        action="store_true",
        help="offer neither to drop a residual branch whole nor a segment",
    )
    group.add_argument(
        "--boundary-activation",
        action="store_true",
        help="add an activation behind merged segments that have none there",
    )


def search_space(arguments: argparse.Namespace) -> SearchSpace:
    """The search space that the arguments of `add_space` describe."""
    from layermerge.search_space import SearchSpace

    is_paper = arguments.space == "paper"
    ratio = arguments.max_flops_ratio
    if ratio is None:
        ratio = 0.0 if is_paper else 2.0
    return SearchSpace(
        space=arguments.space,
        remove=arguments.remove or (("activation", "norm") if is_paper else ("activation",)),
        method=arguments.method,
        max_kernel=arguments.max_kernel,
        max_segment=arguments.max_segment,
        max_flops_ratio=ratio or None,
        frozen=arguments.frozen,
        breaks=arguments.breaks,
        drop_branches=not arguments.keep_branches,
        boundary_activation=arguments.boundary_activation,
    )


def add_latency(parser: argparse.ArgumentParser) -> None:
    """Add how latency is measured."""
    group = parser.add_argument_group("latency")
    group.add_argument(
        "--input",
        type=shape,
        metavar="SHAPE",
        help="shape of the input whose latency counts, such as 1x3x224x224; default: one image, of "
        "the shape that the model or the data is for. A model with other inputs comes with them, "
        "from a function",
    )
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="eager",
        help="what runs the network; analytic computes instead of measuring; default: eager",
    )
    group.add_argument("--device", metavar="D", help="cpu or cuda; default: cuda if there is one")
    group.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="of weights and inputs; default: fp32"
    )
    group.add_argument(
        "--channels-last", action="store_true", help="keep channels innermost in memory"
    )
    group.add_argument("--batch", type=at_least(1), metavar="N", help="default: as in --input")
    group.add_argument(
        "--threads", type=at_least(1, MOST_THREADS), metavar="N", help="CPU only; default: torch's"
    )
    group.add_argument(
        "--target-rsd",
        type=positive,
        default=0.02,
        metavar="R",
        help="relative half-width of the confidence interval to reach; default: 0.02",
    )
    group.add_argument(
        "--max-seconds",
        type=positive,
        default=120.0,
        metavar="T",
        help="time for each round of measurements, where noise takes longer to average out; "
        "default: 120",
    )
    group.add_argument(
        "--refine",
        action="store_true",
        help="measure again what the study holds, but not at the precision that is asked for",
    )
    group.add_argument(
        "--peak-tflops", type=positive, metavar="F", help="of the device; backend analytic only"
    )
    group.add_argument(
        "--bandwidth-gb-s", type=positive, metavar="B", help="of the device; backend analytic only"
    )


def latency_options(arguments: argparse.Namespace) -> LatencyOptions:
    """Read what `add_latency` added."""
    constants = arguments.peak_tflops, arguments.bandwidth_gb_s
    if arguments.backend == "analytic" and None in constants:
        raise InputError("--backend analytic needs --peak-tflops and --bandwidth-gb-s")
    return LatencyOptions(
        backend=arguments.backend,
        device=arguments.device,
        dtype=arguments.dtype,
        channels_last=arguments.channels_last,
        batch=arguments.batch,
        threads=arguments.threads,
        target_rsd=arguments.target_rsd,
        max_seconds=arguments.max_seconds,
        refine=arguments.refine,
        roofline=None if None in constants else Roofline(*constants),
    )


def shape(text: str) -> tuple[int, ...]:
    """Read ``1x3x224x224``."""
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape: expected BATCHxCHANNELSxHEIGHTxWIDTH, such as 1x3x224x224"
        )
    return sizes


def example(sizes: tuple[int, ...]) -> Tensor:
    """Make an example input of random values."""
    import torch

    try:
        return torch.randn(sizes)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise InputError(
            f"--input {'x'.join(map(str, sizes))} does not fit into memory: give a smaller batch, "
            "height or width"
        ) from error


def integers(text: str) -> tuple[int, ...]:
    """Read ``0,7,15``."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers, such as 0,7,15"
        ) from None


def layers(text: str) -> tuple[int | str, ...]:
    """Read ``1,layer1.0.conv1``: numbers of layers, and names of modules."""
    return tuple(int(word) if word.isdecimal() else word for word in words(text))


def words(text: str) -> tuple[str, ...]:
    """Read ``activation,gate``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def at_least(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Read a whole number with a lower limit, and perhaps an upper one."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limits = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {limits}")
        return value

    return convert


def positive(text: str) -> float:
    """Read a number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def at_least_zero(text: str) -> float:
    """Read a number of at least 0; ``inf`` is one."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def percentage(text: str) -> float:
    """Read ``60%`` as 0.6; more than the original latency is no budget."""
    if not text.endswith("%"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage such as 60%")
    value = positive(text[:-1]) / 100
    if value > 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} of the original latency is slower than it is: give at most 100%"
        )
    return value


def speedup(text: str) -> float:
    """Read a factor of at least 1."""
    value = positive(text)
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is a slow-down: a speedup is the original latency over the new one, such as "
            "1.5"
        )
    return value


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add how much is said on standard error."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--quiet", action="store_true", help="no progress on standard error, only errors"
    )
    group.add_argument(
        "--verbose", action="store_true", help="say more, and where in the code an error comes from"
    )


def set_verbosity(arguments: argparse.Namespace) -> None:
    """Let the package log as much as the user asked for."""
    level = logging.NOTSET
    if arguments.quiet or arguments.verbose:
        level = logging.WARNING if arguments.quiet else logging.DEBUG
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("layermerge").setLevel(level)


def announce_stages() -> None:
    """Show what the stages log, on standard error, unless something else was asked for."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    if logging.getLogger("layermerge").level == logging.NOTSET:
        logging.getLogger("layermerge").setLevel(logging.INFO)
