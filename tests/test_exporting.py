from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.exporting import PLAN_FILE, WEIGHTS_FILE, load, save
from layermerge.merging import merge
from layermerge.models import DEMO_MODEL
from layermerge.plan import PlannedSegment, load_plan, original_plan, replace_segment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import images, randomized, relative_error, tiny_classifier, zoo

NAMES = ["plain", "basic", "bottleneck", "inverted"]


def chain(channels=4):
    """Three convolutions of equal shape, any two of which may go."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).eval()


CHAIN_INPUT = torch.zeros(2, 4, 6, 6)


def chain_plan(*kept):
    """All three layers in one segment."""
    kernel_size = 1 + 2 * len(kept)
    segment = PlannedSegment(0, 3, (kernel_size, kernel_size), kept)
    return replace(original_plan(trace(chain(), CHAIN_INPUT)), segments=(segment,))


def compressed(model, plan):
    rewritten = rewrite(model, plan)
    return merge(randomized(rewritten, seed=3).eval())


@pytest.fixture
def saved(tmp_path):
    """A folder with a compressed chain, and the network in it."""
    merged = compressed(chain(), chain_plan(1, 3))
    save(merged, tmp_path / "faster")
    return tmp_path / "faster", merged


def message_of(folder, model=None):
    """The error of loading: one paragraph."""
    with pytest.raises(InputError) as caught:
        load(folder, model or chain())
    message = str(caught.value)
    assert "\n" not in message
    return message


def deepest_plan(network):
    """The plan with the longest segment that merges."""
    candidates = enumerate_candidates(network).candidates
    return replace_segment(network, max(candidates, key=lambda c: c.end - c.start))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan_of", [original_plan, deepest_plan])
def test_what_is_loaded_computes_exactly_what_was_saved(tmp_path, name, plan_of):
    model = zoo(name)
    value = images(2, 3, 16, 16)
    merged = compressed(model, plan_of(trace(model, value)))
    save(merged, tmp_path)
    loaded = load(tmp_path, zoo(name))
    assert not any(module.training for module in loaded.modules())
    with torch.no_grad():
        assert torch.equal(loaded(value), merged(value))


def test_any_weights_will_do_to_load_into(saved):
    folder, merged = saved
    value = images(2, 4, 6, 6)
    other = randomized(chain(), seed=9)
    before = [tensor.clone() for tensor in other.state_dict().values()]
    with torch.no_grad():
        assert torch.equal(load(folder, other)(value), merged(value))
    assert all(map(torch.equal, other.state_dict().values(), before))


def test_the_plan_is_saved_with_the_weights(saved):
    folder, _ = saved
    assert load_plan(folder / PLAN_FILE) == chain_plan(1, 3)
    assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS_FILE, PLAN_FILE]


def test_weights_that_are_shared_within_the_model_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = chain()
            self.head = nn.Linear(4, 4)
            self.tail = nn.Linear(4, 4)
            self.tail.weight = self.head.weight

        def forward(self, x):
            return self.tail(self.head(self.convolution(x).mean((2, 3))))

    model, value = Tied().eval(), images(2, 4, 6, 6)
    merged = merge(rewrite(model, deepest_plan(trace(model, value))))
    save(merged, tmp_path)
    assert relative_error(load(tmp_path, model)(value), merged(value)) == 0


def test_neither_file_is_or_holds_a_pickle(saved, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    folder, merged = saved
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert load(folder, chain()).state_dict().keys() == merged.state_dict().keys()
    json.loads((folder / PLAN_FILE).read_text())


@pytest.mark.parametrize(
    ("name", "reason"),
    [(PLAN_FILE, "cannot be read as a plan"), (WEIGHTS_FILE, "cannot be read as safetensors")],
)
def test_a_missing_file_is_named(saved, name, reason):
    folder, _ = saved
    (folder / name).unlink()
    message = message_of(folder)
    assert message.startswith(f"{folder / name} {reason}")
    assert "No such file" in message


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk"])
@pytest.mark.parametrize("name", [PLAN_FILE, WEIGHTS_FILE])
def test_a_damaged_file_is_named(saved, name, damage):
    path = saved[0] / name
    path.write_bytes(damage(path.read_bytes()))
    assert message_of(saved[0]).startswith(f"{path} cannot be read as")


def test_weights_that_are_not_finite_are_refused(saved):
    folder, merged = saved
    weights = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    name = next(iter(weights))
    weights[name].view(-1)[2] = torch.nan
    with safetensors.safe_open(folder / WEIGHTS_FILE, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(weights, folder / WEIGHTS_FILE, metadata)
    assert f"has values in {name!r} that are not finite" in message_of(folder)


def test_one_flipped_bit_of_the_weights_is_noticed(saved):
    path = saved[0] / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-4] ^= 1  # the last bit of the last value: nothing that a range check could see
    path.write_bytes(content)
    assert message_of(saved[0]).startswith(
        f"{path} is damaged: its tensors do not have the SHA-256"
    )


@pytest.mark.parametrize(
    "change", [{"budget_ns": 7}, {"certificate": "optimal"}, {"provenance": {"model": "timm:a"}}]
)
def test_a_plan_that_was_changed_is_noticed(saved, change):
    path = saved[0] / PLAN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "or one of them was changed since" in message_of(saved[0])


def test_how_the_plan_is_laid_out_does_not_matter(saved):
    path = saved[0] / PLAN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True), newline="\r\n")
    assert load(saved[0], chain()).state_dict().keys() == saved[1].state_dict().keys()


def test_a_truncated_weights_file_is_noticed_wherever_it_is_cut(saved):
    path = saved[0] / WEIGHTS_FILE
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 50):
        path.write_bytes(content[:length])
        assert message_of(saved[0]).startswith(f"{path} cannot be read as safetensors")


MODEL_FILE = """
from test_exporting import chain

def make():
    return chain()
"""


@pytest.fixture
def named(tmp_path, saved, monkeypatch):
    """A compressed chain whose plan names a function in a file."""
    (tmp_path / "my_chain.py").write_text(MODEL_FILE)
    monkeypatch.chdir(tmp_path)
    save(saved[1], "named", model_name="my_chain.py:make")
    return tmp_path / "named", saved[1]


def test_a_model_can_be_given_by_its_name(tmp_path, named, monkeypatch):
    folder, merged = named
    value = images(2, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(load(folder, "my_chain.py:make")(value), merged(value))


def test_the_code_that_a_plan_names_is_not_run_unasked(tmp_path, named, monkeypatch):
    folder, _ = named
    monkeypatch.chdir("/")
    (tmp_path / "my_chain.py").write_text("raise AssertionError('it was run')")
    with pytest.raises(InputError, match="is code that is not run only because") as caught:
        load(folder)
    assert f"--model {tmp_path / 'my_chain.py'}:make" in str(caught.value)


def test_the_model_of_a_library_is_made_without_being_named(tmp_path):
    from layermerge.demo import DigitsNet

    model = DigitsNet().eval()
    value = images(2, 1, 32, 32)
    merged = compressed(model, deepest_plan(trace(model, value)))
    save(merged, tmp_path, model_name=DEMO_MODEL)
    assert load_plan(tmp_path / PLAN_FILE).provenance == {"model": DEMO_MODEL}
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(value), merged(value))


def test_a_plan_that_names_no_model_asks_for_one(saved):
    with pytest.raises(InputError, match=r"does not say which model .* --model timm:NAME"):
        load(saved[0])


def test_a_model_that_does_not_run_on_the_inputs_is_another(tmp_path):
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    value = images(2, 5, 8, 8)
    save(compressed(model, deepest_plan(trace(model, value))), tmp_path)
    message = message_of(tmp_path, tiny_classifier())
    assert f"{tmp_path / PLAN_FILE} was made of another model than" in message
    assert "example_inputs" not in message


def test_another_model_is_refused(saved):
    message = message_of(saved[0], tiny_classifier())
    assert "made for another network" in message or "does not run on" in message


def test_a_model_of_the_same_kind_and_another_width_is_refused(saved):
    with pytest.raises(InputError):
        load(saved[0], chain(channels=5))


@pytest.mark.parametrize("kept", [(3,), (2, 3), (1, 2, 3)])
def test_weights_of_another_plan_are_refused_whatever_their_shapes(saved, tmp_path, kept):
    folder, merged = saved
    other = compressed(chain(), chain_plan(*kept))
    shapes = [[tensor.shape for tensor in net.state_dict().values()] for net in (merged, other)]
    assert (shapes[0] == shapes[1]) == (len(kept) == 2)
    save(other, tmp_path / "other")
    (tmp_path / "other" / WEIGHTS_FILE).replace(folder / WEIGHTS_FILE)
    assert message_of(folder).startswith(
        f"{folder / WEIGHTS_FILE} was saved with another plan than {folder / PLAN_FILE}"
    )


def test_weights_from_elsewhere_are_refused(saved):
    folder, _ = saved
    safetensors.torch.save_file(chain().state_dict(), folder / WEIGHTS_FILE)
    assert "another plan" in message_of(folder)


def test_a_network_that_was_not_compressed_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match=r"expected a network made by layermerge\.rewrite"):
        save(chain(), tmp_path)


def test_a_model_in_training_mode_is_refused(saved):
    assert "call model.eval() first" in message_of(saved[0], tiny_classifier().train())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    merged = merge(rewrite(chain(), chain_plan(1)))
    with pytest.raises(InputError, match="cannot be made a folder"):
        save(merged, path)


def test_weights_that_cannot_be_written_are_an_input_error(tmp_path):
    (tmp_path / WEIGHTS_FILE).mkdir()
    with pytest.raises(InputError, match=r"cannot be written.*space"):
        save(merge(rewrite(chain(), chain_plan(1))), tmp_path)


def test_what_is_not_merged_is_not_saved(tmp_path):
    model = zoo("basic")
    rewritten = rewrite(model, original_plan(trace(model, images(1, 3, 16, 16))))
    with pytest.raises(InputError, match="rewritten but not merged"):
        save(rewritten, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_and_no_name_is_refused(saved, tmp_path):
    folder, merged = saved
    assert message_of(folder, nn.Sequential).endswith("Sequential'>: call it, to give a model")
    assert "model must be a torch.nn.Module, or a name, got 3" in message_of(folder, 3)
    with pytest.raises(InputError, match=r"model_name must be text, such as .* got 7"):
        save(merged, tmp_path / "other", model_name=7)
