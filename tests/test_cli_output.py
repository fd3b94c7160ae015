"""What the command line does when the system refuses to read or write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layermerge.cli import COMMANDS, INTERRUPTED, main

REFERENCE = Path(__file__).parent / "data" / "reference"
SOLVE = [
    "solve",
    f"--latency={REFERENCE / 'resnet34.s1.time.csv'}",
    f"--importance={REFERENCE / 'resnet34.s1.importance.csv'}",
    "--speedup=1.2",
    "--json",
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_message():
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "layermerge", *SOLVE],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 2
    assert "space" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
def test_a_reader_that_leaves_ends_the_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-m", "layermerge", *SOLVE],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (found.returncode, found.stderr) == (1, "")


@pytest.mark.parametrize("command", ["compress", "demo", "importance", "profile"])
def test_an_interrupt_says_that_the_same_command_goes_on(monkeypatch, capsys, command):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS[command], "run", interrupted)
    needed = {"compress": ["m", "--data=d", "--speedup=2"], "importance": ["--study=s"]}
    arguments = needed.get(command, ["m"] if command == "profile" else [])
    assert main([command, *arguments]) == INTERRUPTED
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_one_message(capsys, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    for place in (path, path / "below"):
        assert main(["demo", "--fast", f"--out={place}"]) == 2
        assert str(path) in capsys.readouterr().err


def test_an_error_of_the_system_within_a_command_is_one_message(capsys, monkeypatch):
    def fail(arguments):
        raise OSError(28, "No space left on device", "plan.json")

    monkeypatch.setattr("layermerge.commands.solve.run", fail)
    assert main(SOLVE) == 2
    message = capsys.readouterr().err
    assert "plan.json: No space left on device" in message
    assert "Check" in message


@pytest.mark.parametrize("command", [["demo"], ["compress", "m:f", "--data=digits", "--speedup=2"]])
def test_a_seed_has_an_upper_limit(capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--seed", str(2**32)])
    assert "0 to 4294967295" in capsys.readouterr().err


def test_an_input_that_does_not_fit_into_memory_is_one_message(capsys):
    sizes = "1x1x99999999x99999999"
    assert main(["inspect", "networks:tiny_classifier", "--input", sizes]) == 2
    message = capsys.readouterr().err
    assert sizes in message
    assert "memory" in message


def test_a_bin_of_no_width_is_refused_by_its_option(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*SOLVE, "--bin-ms", "0"])
    message = capsys.readouterr().err
    assert "--bin-ms: must be at least 0.000001 milliseconds" in message
    assert "bin_ns" not in message


def streams(*words):
    found = subprocess.run(
        [sys.executable, "-m", "layermerge", *words], capture_output=True, text=True, check=False
    )
    return found.returncode, found.stdout, found.stderr


def test_verbose_says_where_an_error_is_from():
    status, _, said = streams("solve", "--latency=none.csv", "--importance=none.csv", "--speedup=2")
    assert (status, said.count("\n")) == (2, 1)
    status, _, said = streams(
        "solve", "--latency=none.csv", "--importance=none.csv", "--speedup=2", "--verbose"
    )
    assert status == 2
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("layermerge solve: error: ")
    assert streams("solve", "--quiet", "--verbose")[0] == 2


def test_what_a_model_prints_is_not_in_the_document(tmp_path, capsys):
    (tmp_path / "chatty.py").write_text(
        "from torch import nn\n"
        "print('hello')\n"
        "class Chatty(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        print('forward')\n"
        "        return super().forward(x)\n"
        "def make():\n"
        "    return Chatty(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).eval()\n"
    )
    model = f"{tmp_path / 'chatty.py'}:make"
    assert main(["inspect", model, "--input=1x3x8x8", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert "hello\n" in printed.err
    assert "forward\n" in printed.err
