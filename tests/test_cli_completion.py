from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from layermerge.cli import COMMANDS, main

SHELLS = ("bash", "zsh", "fish")


def script_for(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def offered_by_bash(script, line):
    """What bash would complete the last word of a line to."""
    code = f"""{script}
    COMP_WORDS=({line})
    [[ "{line}" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _shtab_layermerge layermerge
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(bash.stdout.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_its_script(shell, capsys, tmp_path):
    script = script_for(shell, capsys)
    for name in COMMANDS:
        assert name in script
    if not shutil.which(shell):
        pytest.skip(f"no {shell} to check the script with")
    path = tmp_path / "script"
    path.write_text(script)
    checked = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_subcommands_options_and_choices(capsys):
    script = script_for("bash", capsys)
    assert offered_by_bash(script, "layermerge ") >= set(COMMANDS)
    assert offered_by_bash(script, "layermerge so") == {"solve"}
    assert offered_by_bash(script, "layermerge solve --bu") == {"--budget-ms"}
    assert offered_by_bash(script, "layermerge solve --method ") == {"exact", "binned"}
    assert offered_by_bash(script, "layermerge table ex") == {"export"}


def test_without_shtab_the_message_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'layermerge[completion]'" in capsys.readouterr().err
