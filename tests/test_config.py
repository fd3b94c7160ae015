from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.cli import build_parser, main
from layermerge.config import as_toml, with_config
from layermerge.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMANDS = build_parser()[1]


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "options.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def parsed(argv):
    return build_parser()[0].parse_args(with_config(argv, COMMANDS))


def test_a_file_fills_in_options_of_every_kind(config):
    path = config(
        """
        seed = 3
        [compress]
        data = "digits"
        speedup = 1.5
        pretrained = true
        full = false
        remove = ["activation", "gate"]
        max_kernel = 5
        label-smoothing = 0.1
        """
    )
    found = parsed(["compress", "timm:resnet18", "--config", path])
    assert (found.seed, found.data, found.speedup, found.max_kernel) == (3, "digits", 1.5, 5)
    assert (found.pretrained, found.full, found.label_smoothing) == (True, False, 0.1)
    assert found == parsed(
        [
            "compress",
            "timm:resnet18",
            "--seed",
            "3",
            "--data",
            "digits",
            "--speedup",
            "1.5",
            "--pretrained",
            "--remove",
            "activation,gate",
            "--max-kernel",
            "5",
            "--label-smoothing",
            "0.1",
        ]
    )


def test_several_values_are_a_list(config):
    path = config('[importance]\nlatency = ["80%", "50%"]\nstudy = "a.db"')
    assert (
        parsed(["importance", "m:f", f"--config={path}"]).latency
        == parsed(["importance", "m:f", "--study", "a.db", "--latency", "80%", "50%"]).latency
    )


def test_the_command_line_goes_first(config):
    path = config('[compress]\ndata = "digits"\nspeedup = 1.5\nseed = 3')
    found = parsed(["compress", "m:f", "--config", path, "--seed", "4", "--latency-ms=7"])
    assert (found.seed, found.latency_ms, found.speedup) == (4, 7.0, None)


def test_keys_for_other_commands_are_left_to_them(config):
    path = config("max-kernel = 5\n[compress]\nspeedup = 2")
    assert parsed(["inspect", "m:f", "--config", path]).max_kernel == 5
    assert parsed(["solve", "--latency=a", "--importance=b", "--speedup=1", "--config", path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "has 'sed', which is no option; did you mean 'seed'?"),
        ("[compres]\nseed = 1", "has 'compres', which is no command; did you mean 'compress'?"),
        ("[compress]\nmax_kernels = 1", "no option of compress; did you mean 'max-kernel'?"),
        ("[compress]\nfull = 1", "full must be true or false, got 1"),
        ("[compress]\nseed = true", "seed must be a text, a number or a list of them, got True"),
        ("[compress]\nseed = 1979-05-27", "seed must be a text, a number or a list"),
        ("seed = = 1", "is not valid TOML"),
        ("seed = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_what_is_no_option_is_refused_with_a_hint(config, text, message, capsys):
    path = config(text)
    with pytest.raises(InputError, match=r"options\.toml") as caught:
        with_config(["compress", "m:f", "--config", path], COMMANDS)
    assert message in str(caught.value)
    assert main(["compress", "m:f", "--config", path]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "options.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"config .*options\.toml (cannot be read|is not valid)"):
        with_config(["demo", "--config", str(path)], COMMANDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max-kernel = 0", "max-kernel: '0' is not a whole number of 1 or more"),
        ("seed = 'one'", "seed: 'one' is not a whole number of 0"),
        ("breaks = [0, 'x']", "breaks: '0,x' is not a list of whole numbers"),
        ("backend = 'fast'", "backend must be one of eager, compile"),
        ("speedup = 0.5", "speedup: '0.5' is a slow-down"),
        ("latency = '150%'", "latency: '150%' of the original latency is slower than it is"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_the_file(config, line, message, capsys):
    path = config(f"[compress]\n{line}")
    assert main(["compress", "m:f", "--config", path]) == 2
    assert f"config {path}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("config", "table")])
def test_what_show_prints_is_a_config_file(command, capsys, config):
    assert main(["config", "show", command]) == 0
    shown = capsys.readouterr().out
    document = tomllib.loads(shown)
    assert document.keys() == {command}
    options = with_config([command, "--config", config(shown)], COMMANDS)
    if document[command]:
        assert any(word.startswith("--") for word in options) or not any(document[command].values())


def test_show_reads_a_file_over_the_defaults(capsys, config):
    path = config("seed = 5\n[compress]\nmax_kernel = 7")
    assert main(["config", "show", "compress", "--file", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["max-kernel"], found["init"]) == (5, 7, "composed")
    assert main(["config", "show", "compres"]) == 2
    assert "did you mean 'compress'" in capsys.readouterr().err
    assert main(["config", "show", "nothing"]) == 2
    assert "no command: there are completion, compress, config" in capsys.readouterr().err


@given(
    st.dictionaries(
        st.text("abc-", min_size=1),
        st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
        min_size=1,
    )
)
def test_toml_that_is_written_is_read_back(values):
    assert tomllib.loads(as_toml(values)) == values
