"""`layermerge inspect MODEL`: what can merge, and what stops the rest."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from layermerge.commands.inputs import example_for, explaining_input
from layermerge.commands.json_output import print_document
from layermerge.commands.options import add_model, add_space, search_space, shape
from layermerge.entries import write_entries
from layermerge.errors import NoLayersError

if TYPE_CHECKING:
    from layermerge.candidates import CandidateSpace
    from layermerge.network import Layer, Network

SUMMARY = "Show a model's layers, what can merge, and what stops the rest."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_model(parser)
    parser.add_argument(
        "--input",
        type=shape,
        metavar="SHAPE",
        help="shape of the example input; default: what comes with the model, or 1x3x224x224",
    )
    add_space(parser)
    parser.add_argument(
        "--entries-csv",
        metavar="FILE",
        help="write the entries (start, end, kernel size, ...) as a table",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Trace, enumerate and print."""
    from layermerge.models import load_model_and_inputs
    from layermerge.tracing import trace

    search = search_space(arguments)
    model, inputs = load_model_and_inputs(
        arguments.model, weights=arguments.weights, pretrained=arguments.pretrained
    )
    inputs = example_for(model, arguments.input, inputs)
    try:
        with explaining_input(model, arguments.model):
            network = trace(model, inputs, remove=search.remove)
    except NoLayersError as error:
        if arguments.entries_csv:
            raise
        _print_no_layers(type(model).__name__, str(error), as_json=arguments.json)
        return 0
    space = search.enumerate(network)
    if arguments.entries_csv:
        write_entries(arguments.entries_csv, space)
    if arguments.json:
        print_document(_document(space))
    else:
        _print_table(space)
    return 0


def _print_no_layers(name: str, reason: str, *, as_json: bool) -> None:
    sizes = ("layers", "segments", "mergeable_segments", "entries", "signatures")
    if as_json:
        print_document({"model": name, **dict.fromkeys(sizes, 0), "reason": reason})
    else:
        print(f"{reason}.\nNothing can merge in this model.")


def counts(space: CandidateSpace) -> dict[str, int]:
    """Sizes of a candidate space."""
    places = {(candidate.start, candidate.end) for candidate in space.listed}
    return {
        "layers": space.network.num_layers,
        "segments": len(places),
        "mergeable_segments": sum(end - start > 1 for start, end in places),
        "entries": len(space.listed),
        "signatures": len(space.signatures),
    }


def _document(space: CandidateSpace) -> dict[str, Any]:
    network = space.network
    return {
        "model": network.name,
        "fingerprint": network.fingerprint,
        **counts(space),
        "skipped": dict(space.skipped),
        "layer_list": [
            {
                "index": layer.index,
                "name": layer.name,
                "in_channels": layer.in_channels,
                "out_channels": layer.out_channels,
                "kernel_size": layer.kernel_size,
                "stride": layer.stride,
                "groups": layer.groups,
                "input_size": layer.input_size,
                "output_size": layer.output_size,
                "activation": layer.activation,
                "irreducible": layer.is_irreducible,
                "blocked_after": reason,
            }
            for layer, reason in zip(network.layers, (*network.blocked, None), strict=True)
        ],
        "barriers": [
            {"name": b.name, "kind": b.kind, "position": b.position, "reason": b.reason}
            for b in network.barriers
        ],
    }


def _print_table(space: CandidateSpace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    network, size = space.network, counts(space)
    console = Console()
    table = Table(title=escape(network.name), caption=_caption(size))
    for heading, justify in (
        ("layer", "right"),
        ("name", "left"),
        ("convolution", "left"),
        ("output", "right"),
        ("activation", "left"),
        ("longest", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for layer, reason in zip(network.layers, (*network.blocked, None), strict=True):
        table.add_row(
            str(layer.index),
            escape(layer.name),
            describe(layer),
            f"{layer.out_channels}x{layer.output_size[0]}x{layer.output_size[1]}",
            layer.activation or "",
            str(_longest_from(space, layer.index - 1)),
            end_section=bool(reason),
        )
    console.print(table)
    for position, reason in enumerate(network.blocked, start=1):
        if reason:
            console.print(f"Nothing merges across position {position}: {escape(reason)}.")
    kinds = Counter(barrier.kind for barrier in network.barriers if not barrier.is_removable)
    if kinds:
        console.print(f"Fixed parts: {escape(_listed(kinds))}.")
    for reason, count in space.skipped.items():
        console.print(f"{count} entries were left out: {escape(reason)}.")
    if not size["mergeable_segments"]:
        console.print("No segment of two layers: nothing can merge in this model.")
    for word, locked in _unlockable(network).items():
        console.print(f"--remove {word} would let segments contain: {escape(_listed(locked))}.")


def _unlockable(network: Network) -> dict[str, Counter[str]]:
    """What stops merges but may be removed: how many of each kind, by the word that allows it."""
    found: dict[str, Counter[str]] = {}
    for barrier in network.barriers:
        if barrier.unlock:
            found.setdefault(barrier.unlock, Counter())[barrier.kind] += 1
    return found


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())


def _caption(size: dict[str, int]) -> str:
    return (
        f"{size['layers']} layers, {size['segments']} segments ({size['mergeable_segments']} of "
        f"two or more layers), {size['entries']} entries, {size['signatures']} distinct signatures "
        "to measure; longest: layers in the longest segment that starts here"
    )


def describe(layer: Layer) -> str:
    """The convolution of a layer in a few words."""
    parts = [f"{layer.kernel_size[0]}x{layer.kernel_size[1]}"]
    if max(layer.stride) > 1:
        parts.append(f"/{max(layer.stride)}")
    if layer.is_depthwise:
        parts.append("depthwise")
    elif layer.groups > 1:
        parts.append(f"{layer.groups} groups")
    if not layer.is_irreducible:
        parts.append("removable")
    return " ".join(parts)


def _longest_from(space: CandidateSpace, position: int) -> int:
    return max(c.end - position for c in space.candidates if c.start == position)
