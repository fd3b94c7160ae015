from __future__ import annotations

import logging
import pickle
import shutil
import sys

import pytest
import torch

from layermerge import datasets, image_files
from layermerge.datasets import Dataset, distort, load_digits, load_hub_dataset, load_image_folder
from layermerge.errors import InputError, MissingDependencyError

SPLIT = (1100, 247, 450)
COPIES = 4


@pytest.fixture(scope="module")
def scans():
    """The real scans and their labels, as scikit-learn ships them."""
    from sklearn.datasets import load_digits as load

    return load()


@pytest.fixture(scope="module")
def clean():
    """The digits up-sampled, split, and not distorted: each part as images and labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "distort", lambda images, noise: images)
        return {name: whole(part) for name, part in parts(load_digits()).items()}


def parts(dataset):
    return {name: getattr(dataset, name) for name in ("train", "validation", "test")}


def whole(batches):
    """All batches as two tensors."""
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def identities(images):
    return [image.numpy().tobytes() for image in images]


def test_batches_are_square_grey_images_with_labels():
    dataset = load_digits(batch_size=50)
    for name, batches in parts(dataset).items():
        for images, labels in batches:
            assert images.shape == (len(labels), 1, 32, 32), name
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
            assert 0 <= labels.min() <= labels.max() <= 9
    assert len(dataset.train) == len(list(dataset.train)) == SPLIT[0] // 50
    assert {len(labels) for _, labels in dataset.train} == {50}
    assert [len(whole(dataset.validation)[1]), len(whole(dataset.test)[1])] == [
        COPIES * SPLIT[1],
        COPIES * SPLIT[2],
    ]
    assert dataset.num_classes == len(set(whole(dataset.test)[1].tolist())) == 10


def test_the_parts_share_no_scan_and_hold_them_all(clean, scans):
    found = {name: set(identities(images)) for name, (images, _) in clean.items()}
    assert not found["train"] & found["validation"]
    assert not found["train"] & found["test"]
    assert not found["validation"] & found["test"]
    # 64 does not divide 1100: the last, smaller batch of an epoch is left out.
    assert len(found["train"]) == SPLIT[0] // 64 * 64
    assert [len(found["validation"]), len(found["test"])] == list(SPLIT[1:])
    assert sum(SPLIT) == len(scans.images)


def test_each_image_keeps_its_label(clean, scans):
    upsampled = torch.nn.functional.interpolate(
        torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16, (32, 32), mode="bilinear"
    )
    label_of = dict(zip(identities(upsampled), scans.target.tolist(), strict=True))
    for images, labels in clean.values():
        assert [label_of[identity] for identity in identities(images)] == labels.tolist()


def test_equal_seeds_give_equal_validation_and_test_whatever_the_global_state():
    torch.manual_seed(5)
    one = load_digits(seed=3)
    torch.manual_seed(6)
    other = load_digits(seed=3)
    for name in ("validation", "test"):
        first, second = whole(getattr(one, name)), whole(getattr(other, name))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_another_seed_splits_otherwise():
    one, other = (whole(load_digits(seed=seed).test)[1] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_digits()
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_fixed_and_training_is_distorted_anew():
    dataset = load_digits()
    assert torch.equal(whole(dataset.test)[0], whole(dataset.test)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = whole(dataset.train), whole(dataset.train)
        torch.manual_seed(0)
        again = whole(dataset.train)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_distortion_changes_every_image_and_adds_noise_of_the_given_size():
    paper = torch.zeros(64, 1, 32, 32)
    assert torch.equal(distort(paper, 0.0), paper)
    assert distort(paper, 0.4).std() == pytest.approx(0.4, rel=0.05)
    bar = torch.zeros(64, 1, 32, 32)
    bar[:, :, 4:28, 14:18] = 1
    moved = distort(bar, 0.0)
    assert all(not torch.equal(a, b) for a, b in zip(moved, bar, strict=True))
    assert len(set(identities(moved))) == 64
    assert 0 <= moved.min() <= moved.max() <= 1
    # Ink is scaled by 1/0.75² at most, and little of it leaves the paper.
    assert 0.3 < moved.mean() / bar.mean() < 1.8


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"scikit-learn .* 'layermerge\[demo\]'"):
        load_digits()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_an_image_folder_without_a_part_is_named(tmp_path, missing):
    for name in {"train", "val"} - {missing}:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError) as caught:
        load_image_folder(tmp_path)
    assert f"{tmp_path} has no folder {missing!r}" in str(caught.value)
    assert f"{tmp_path}/val/CLASS/*.jpg" in str(caught.value)


def test_an_image_folder_needs_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    with pytest.raises(MissingDependencyError, match=r"torchvision .* 'layermerge\[models\]'"):
        load_image_folder(tmp_path)


def write_images(folder, counts):
    """Grey images, the first class dark and the second light, so many in each part."""
    from PIL import Image

    for part, count in counts.items():
        for shade, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for place in range(count):
                image = Image.new("RGB", (40 + place, 48), (200 * shade,) * 3)
                image.save(folder / part / name / f"{place}.png")


@pytest.fixture
def image_folder(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    write_images(tmp_path, {"train": 5, "val": 4})
    return tmp_path


def test_an_image_folder_is_a_dataset(image_folder):
    dataset = load_image_folder(image_folder, size=32, batch_size=4, workers=0)
    assert isinstance(dataset, Dataset)
    assert dataset.num_classes == 2
    assert [images.shape for images, _ in dataset.train] == [(4, 3, 32, 32)] * 2
    for batches in (dataset.validation, dataset.test):
        images, labels = whole(batches)
        assert labels.tolist() == [0, 0, 1, 1]
        assert images[labels == 1].min() > images[labels == 0].max()


def test_fewer_images_than_a_batch_are_one_batch(image_folder):
    dataset = load_image_folder(image_folder, size=32, batch_size=64, workers=0)
    assert [len(labels) for _, labels in dataset.train] == [10]
    assert len(dataset.train) == 1


def damage(path):
    """Cut an image off in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_named_counted_once_and_left_out(
    image_folder, workers, capfd, monkeypatch
):
    """Also by workers, which log as the process that started them does."""
    monkeypatch.setattr(logging.getLogger("layermerge"), "handlers", [logging.StreamHandler()])
    damage(image_folder / "val" / "light" / "1.png")
    (image_folder / "val" / "dark" / "3.png").write_text("no image")
    dataset = load_image_folder(image_folder, size=32, batch_size=2, workers=workers)
    for _ in range(2):
        images, labels = whole(dataset.test)
        assert labels.tolist() == [0, 1]
        assert images[labels == 1].min() > images[labels == 0].max()
    said = capfd.readouterr().err
    for name, kind in (("light/1.png", "OSError"), ("dark/3.png", "UnidentifiedImageError")):
        line = f"{image_folder}/val/{name} cannot be read and is left out ({kind}"
        assert said.count(line) == 1
    assert "1 of 8 images so far" in said
    assert "2 of 8 images so far" in said
    assert "Traceback" not in said
    assert whole(dataset.validation)[1].tolist() == [0, 0, 1, 1]


def test_a_batch_of_damaged_images_is_left_out(image_folder):
    for place in (1, 3):
        damage(image_folder / "val" / "dark" / f"{place}.png")
    dataset = load_image_folder(image_folder, size=32, batch_size=2, workers=0)
    assert [labels.tolist() for _, labels in dataset.test] == [[1, 1]]


def test_a_folder_without_classes_is_told_what_it_holds(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match=r"train is no folder of classes .*it holds nothing\. Exp"):
        load_image_folder(tmp_path)
    (tmp_path / "train" / "a.png").touch()
    with pytest.raises(InputError, match=r"it holds a\.png\. Expected .*/train/CLASS/\*\.jpg"):
        load_image_folder(tmp_path)


def test_a_class_without_images_is_named(image_folder):
    (image_folder / "train" / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no valid file for the classes nothing.*at least one"):
        load_image_folder(image_folder)


@pytest.mark.parametrize(("has", "lacks"), [("train", "val"), ("val", "train")])
def test_a_class_of_one_part_only_is_named(image_folder, has, lacks):
    (image_folder / has / "dark").rename(image_folder / has / "dusk")
    with pytest.raises(InputError, match=rf"has the class 'dark' in {lacks} and not in {has}: ex"):
        load_image_folder(image_folder)


def test_one_held_out_image_is_too_few(image_folder):
    for name in ("dark", "light"):
        for place in range(4):
            (image_folder / "val" / name / f"{place}.png").unlink()
    write = image_folder / "val" / "dark" / "0.png"
    write.write_bytes((image_folder / "train" / "dark" / "0.png").read_bytes())
    for part in ("train", "val"):
        shutil.rmtree(image_folder / part / "light")
    with pytest.raises(InputError, match=r"val holds 1 image: expected at least two"):
        load_image_folder(image_folder)


def test_an_image_folder_can_be_sent_to_another_process(image_folder):
    dataset = load_image_folder(image_folder, size=32, batch_size=4, workers=0)
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(whole(sent.test)[0], whole(dataset.test)[0])


def shades(count):
    from PIL import Image

    return [Image.new("RGB", (40, 48), (200 * (place % 2),) * 3) for place in range(count)]


@pytest.fixture
def hub_folder(tmp_path):
    """A data set on disk with the splits train and test, dark and light images in turn."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dark", "light"])}
    )
    splits = {
        name: datasets.Dataset.from_dict(
            {"picture": shades(count), "kind": [place % 2 for place in range(count)]},
            features=features,
        )
        for name, count in (("train", 10), ("test", 8))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "shades")
    return tmp_path / "shades"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_hub_dataset_is_a_dataset(hub_folder):
    dataset = load_hub_dataset(str(hub_folder), size=32, batch_size=4, workers=0)
    assert dataset.num_classes == 2
    assert [images.shape for images, _ in dataset.train] == [(4, 3, 32, 32)] * 2
    parts = [whole(batches) for batches in (dataset.validation, dataset.test)]
    # Every second image: the dark ones in one half, the light ones in the other.
    assert [labels.tolist() for _, labels in parts] == [[0] * 4, [1] * 4]
    assert parts[1][0].min() > parts[0][0].max()


def saved(folder, **splits):
    """A data set on disk: for each split its columns, and names of classes by column."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    made = {}
    for name, (columns, classes) in splits.items():
        kinds = {key: datasets.ClassLabel(names=names) for key, names in classes.items()}
        features = datasets.Features({"picture": datasets.Image(), **kinds})
        rows = {"picture": shades(8), **columns}
        made[name] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(made).save_to_disk(folder)
    return str(folder)


DARK_AND_LIGHT = [0, 1] * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_classes_of_a_hub_dataset_are_known_by_name(tmp_path):
    light_and_dark = [1 - each for each in DARK_AND_LIGHT]
    path = saved(
        tmp_path / "data",
        train=({"kind": DARK_AND_LIGHT}, {"kind": ["dark", "light"]}),
        test=({"kind": light_and_dark}, {"kind": ["light", "dark"]}),
    )
    dataset = load_hub_dataset(path, size=32, workers=0)
    parts = [whole(batches) for batches in (dataset.validation, dataset.test)]
    assert [labels.tolist() for _, labels in parts] == [[0] * 4, [1] * 4]
    assert parts[1][0].min() > parts[0][0].max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_several_columns_of_labels_one_is_chosen(tmp_path):
    kinds = {"kind": ["dark", "light"], "coarse": ["image"]}
    split = ({"kind": DARK_AND_LIGHT, "coarse": [0] * 8}, kinds)
    path = saved(tmp_path / "data", train=split, validation=split)
    with pytest.raises(InputError, match=r"several columns .*, kind, coarse: choose one: hf:.*#k"):
        load_hub_dataset(path)
    assert load_hub_dataset(path, label="kind", workers=0).num_classes == 2
    assert load_hub_dataset(path, label="coarse", workers=0).num_classes == 1
    with pytest.raises(InputError, match="'picture' is none of class labels"):
        load_hub_dataset(path, label="picture")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            ({"kind": [0, 1, None, 0] * 2}, {"kind": ["dark", "light"]}),
            "row 2 has the label None in column 'kind', which is none of its 2 classes",
        ),
        (({"kind": [-1] * 8}, {"kind": ["dark", "light"]}), "row 0 has the label -1 in column"),
        (
            ({"kind": DARK_AND_LIGHT}, {"kind": ["dark", "bright"]}),
            "expected the same classes in both",
        ),
        (({"other": DARK_AND_LIGHT}, {"other": ["dark", "light"]}), "the classes None in column"),
    ],
)
def test_labels_of_a_hub_dataset_that_are_none_are_named(tmp_path, split, message):
    train = ({"kind": DARK_AND_LIGHT}, {"kind": ["dark", "light"]})
    path = saved(tmp_path / "data", train=train, test=split)
    with pytest.raises(InputError, match=message):
        load_hub_dataset(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_split_on_disk_is_no_dataset(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match=r"is one split, .*: save a DatasetDict"):
        load_hub_dataset(str(tmp_path / "one"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_hub_dataset_without_what_is_needed_is_named(hub_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"text": ["a"]})
    for splits, message in (
        ({"train": split}, "expected 'train', and 'validation' or 'test'"),
        ({"train": split, "test": split}, "expected one of images and one of class labels"),
    ):
        folder = tmp_path / f"text-{len(splits)}"
        datasets.DatasetDict(splits).save_to_disk(folder)
        with pytest.raises(InputError, match=message):
            load_hub_dataset(str(folder))
    with pytest.raises(InputError, match=r"--data hf:.* cannot be loaded"):
        load_hub_dataset(str(tmp_path / "nothing"))


def test_a_hub_dataset_needs_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"datasets .* 'layermerge\[hub\]'"):
        load_hub_dataset("anything")


def test_of_many_damaged_images_a_few_are_named(caplog, monkeypatch):
    def read(index):
        raise OSError("truncated")

    images = image_files.LabelledImages([0] * 2500, read, "image {}".format, torch.as_tensor)
    with caplog.at_level(logging.WARNING):
        assert not any(images[index] is not None for index in range(2500))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == image_files.FEW + 2
    assert told[9].endswith("10 of 2500 images so far; of those to come every 1000th is named")
    assert "2000 of 2500 images so far" in told[-1]


def test_there_are_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    images = image_files.LabelledImages([0, 1], lambda index: 0, str, torch.as_tensor)
    assert image_files.ImageLoader(images, 1, 8, shuffle=False).num_workers == 1


def test_a_library_that_does_not_work_is_named(tmp_path, monkeypatch):
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"torchvision is installed but cannot be imported: .*nms"):
        load_image_folder(tmp_path)
