"""`layermerge completion SHELL`: the script that lets a shell complete this command."""

from __future__ import annotations

import argparse

from layermerge.errors import MissingDependencyError

SUMMARY = "Print the script that lets bash, zsh or fish complete subcommands and options."

HOW_TO_USE = """\
to use it:
  bash: layermerge completion bash > ~/.local/share/bash-completion/completions/layermerge
  zsh:  layermerge completion zsh > a folder of $fpath, as _layermerge
  fish: layermerge completion fish > ~/.config/fish/completions/layermerge.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = HOW_TO_USE
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="{bash,zsh,fish}")


def run(arguments: argparse.Namespace) -> int:
    """Print the script for the parser of the whole command, which is among the arguments."""
    try:
        import shtab
    except ImportError as error:
        raise MissingDependencyError("shtab", "completion") from error
    print(shtab.complete(arguments.parser, arguments.shell))
    return 0
