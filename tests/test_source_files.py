from __future__ import annotations

import pickle

import pytest

from layermerge.errors import InputError
from layermerge.source_files import load_file, loaded_files


def test_a_file_is_run_once_so_that_its_classes_stay_the_same(tmp_path):
    path = tmp_path / "once_only.py"
    path.write_text("class Mine:\n    pass\n")
    module = load_file(path)
    assert load_file(path) is module
    assert isinstance(pickle.loads(pickle.dumps(module.Mine())), module.Mine)
    assert str(path.resolve()) in loaded_files()


def test_a_file_of_the_same_name_elsewhere_is_another(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "namesake.py").write_text(f"number = {number}\n")
        assert load_file(folder / "namesake.py").number == number


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "a_neighbour.py").write_text("value = 3\n")
    (tmp_path / "with_neighbour.py").write_text("from a_neighbour import value\n")
    assert load_file(tmp_path / "with_neighbour.py").value == 3


def test_a_file_that_fails_is_named_and_not_kept(tmp_path):
    path = tmp_path / "failing.py"
    path.write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"failing.py cannot be run: ZeroDivisionError"):
        load_file(path)
    path.write_text("fine = True\n")
    assert load_file(path).fine
    with pytest.raises(InputError, match="there is no file"):
        load_file(tmp_path / "missing.py")
