from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from layermerge.errors import InputError
from layermerge.weights_files import checksum, load_weights, read_weights, write_weights


def weights():
    shared = torch.arange(6.0).reshape(2, 3)
    return {
        "weight": shared,
        "tied": shared,
        "turned": shared.T,
        "count": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
    }


def test_what_is_written_is_read(tmp_path):
    write_weights(weights(), tmp_path / "w.safetensors", {"recipe": "slow"})
    found, metadata = read_weights(tmp_path / "w.safetensors")
    assert metadata["recipe"] == "slow"
    assert found.keys() == weights().keys()
    for name, tensor in weights().items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_others_may_read_the_file_if_they_may_read_others(tmp_path):
    write_weights(weights(), tmp_path / "w.safetensors", {})
    (tmp_path / "other").write_text("")
    weights_mode, other_mode = (path.stat().st_mode for path in sorted(tmp_path.iterdir()))
    assert weights_mode == other_mode


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.zeros(2, 3)},
        {"weight": torch.arange(6.0).reshape(3, 2)},
        {"weight": torch.arange(6).reshape(2, 3)},
        {"more": torch.zeros(1)},
    ],
)
def test_a_checksum_is_of_values_shapes_types_and_names(change):
    assert checksum({**weights(), **change}) != checksum(weights())


def test_how_tensors_lie_in_memory_is_not_in_a_checksum():
    turned = {"w": torch.arange(6.0).reshape(2, 3).T}
    assert checksum(turned) == checksum({"w": turned["w"].contiguous()})


def test_tensors_under_a_checksum_of_others_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights({"w": torch.ones(3)}, path, {})
    _, metadata = read_weights(path)
    safetensors.torch.save_file({"w": torch.zeros(3)}, path, metadata)
    with pytest.raises(InputError, match=r"w\.safetensors is damaged: .* SHA-256"):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_values_that_are_not_finite_are_refused(tmp_path, value, dtype):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"w": torch.tensor([1.0, value], dtype=dtype)}, path)
    with pytest.raises(InputError, match="has values in 'w' that are not finite"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"junk", safetensors.torch.save({"a": torch.ones(1)})])
def test_content_that_does_not_fit_says_where_it_is_from(content):
    with pytest.raises(InputError, match=r"study run\.db holds weights that cannot be loaded"):
        load_weights(nn.Linear(1, 1), content, "study run.db")
