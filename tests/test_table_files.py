from __future__ import annotations

import gzip
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.errors import InputError, MissingDependencyError
from layermerge.milliseconds import ns_from_ms
from layermerge.table_content import quick_columns
from layermerge.table_files import read_importance, read_latency, write_importance, write_latency

REFERENCE = Path(__file__).parent / "data" / "reference"

LATENCY = "id,st,end,ker,str,is_dw,time,stdev\n0,0,1,3,1,True,0.998792,0.0\n"
IMPORTANCE = 'id,st,end,ker,str,is_dw,conv_comb,importance\n0,0,2,3,1,False,"(1, 2)",0.99\n'


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def test_latencies_are_exact_nanoseconds():
    table = read_latency(REFERENCE / "resnet34.s1.time.csv")
    lines = (REFERENCE / "resnet34.s1.time.csv").read_text().splitlines()[1:]
    assert len(table.entries) == 150
    assert table.latency_ns.tolist() == [Decimal(line.split(",")[6]) * 10**6 for line in lines]


def test_entries_are_read_by_name(write):
    table = read_latency(write('time,end,st,is_dw,ker\n1,7,3,False,3x5\n2,7,3,1,"(3, 5)"\n'))
    assert list(table.entries.keys()) == [(3, 7, 3, 5, False), (3, 7, 3, 5, True)]


def test_kept_layers_are_parsed_never_evaluated(write):
    assert read_importance(write(IMPORTANCE)).kept == ((1, 2),)
    hostile = IMPORTANCE.replace("(1, 2)", "__import__('os').getcwd()")
    with pytest.raises(InputError, match="must be layers such as"):
        read_importance(write(hostile))


@pytest.mark.parametrize("layers", ["1, 2", "(1, 2,)", "[2, 1]"])
def test_kept_layers_may_be_written_in_several_ways(write, layers):
    assert read_importance(write(IMPORTANCE.replace("(1, 2)", layers))).kept == ((1, 2),)


def test_no_kept_layer_is_an_empty_tuple(write):
    assert read_importance(write(IMPORTANCE.replace("(1, 2)", "()"))).kept == ((),)


@pytest.mark.parametrize("name", ["mbv2_1.0", "mbv2_1.4", "vgg19_no_trt"])
def test_tables_of_the_depth_method_are_read(name):
    table = read_latency(REFERENCE / f"depth_{name}_rtx2080ti.time.csv")
    assert (table.latency_ns > 0).all()
    assert not table.entries.kernel_size.any()


def test_importances_of_the_depth_method_keep_all_layers(write):
    assert read_importance(write("id,st,end,importance\n0,2,4,0.9\n")).kept == ((3, 4),)


@pytest.mark.parametrize("name", ["resnet34.s1", "mobilenetv2.s1"])
def test_tables_survive_being_written(name, tmp_path):
    latency = read_latency(REFERENCE / f"{name}.time.csv")
    importance = read_importance(REFERENCE / f"{name}.importance.csv")
    write_latency(latency, tmp_path / "t.csv")
    write_importance(importance, tmp_path / "i.csv")
    latency_again, importance_again = (
        read_latency(tmp_path / "t.csv"),
        read_importance(tmp_path / "i.csv"),
    )
    assert list(latency_again.entries.keys()) == list(latency.entries.keys())
    assert latency_again.entries.stride.tolist() == latency.entries.stride.tolist()
    assert latency_again.latency_ns.tolist() == latency.latency_ns.tolist()
    assert importance_again.importance.tolist() == importance.importance.tolist()
    assert importance_again.kept == importance.kept


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_tolerated(write):
    content = b"\xef\xbb\xbf" + LATENCY.replace("\n", "\r\n").encode() + b"\r\n"
    assert read_latency(write(content)).latency_ns.tolist() == [998_792]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("time", "tiem", "has no column 'time': its columns are id, st, end"),
        ("is_dw", "dw", "has no column 'is_dw'"),
        ("0.998792", "nan", "line 2, column 'time': must be a number of milliseconds, got 'nan'"),
        ("0.998792", "-1", "line 2, column 'time': must be >= 0 milliseconds, got -1"),
        ("0.998792", "", "line 2, column 'time': must be a number of milliseconds, got ''"),
        ("0,0,1", "0,0.5,1", "line 2, column 'st': must be a whole number >= 0, got '0.5'"),
        ("0,0,1", "0,0,0", "line 2, column 'end': must be above st = 0, got 0"),
        (",3,1", ",3x,1", "line 2, column 'ker': must be a number, or two such as '3x5'"),
        ("True", "yes", "line 2, column 'is_dw': must be True or False, got 'yes'"),
        (",0.0\n", "\n", "line 2: expected 8 fields, as in the first line, got 7"),
    ],
)
def test_errors_name_line_and_column(write, old, new, message):
    path = write(LATENCY.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_latency(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(1, 2)", "(1, 3)", "column 'conv_comb': must name layers among 1..2, got (1, 3)"),
        ("(1, 2)", "(1, 1)", "column 'conv_comb': must name each layer once, got '(1, 1)'"),
        ('"(1, 2)"', '"(1, 2"', "column 'conv_comb': must be layers such as '(1, 2)', got '(1, 2'"),
        ('"(1, 2)"', '"(1, 2]"', "must be layers such as '(1, 2)', got '(1, 2]'"),
        (",3,1,", ",(3x3,1,", "column 'ker': must be a number, or two such as '3x5', got '(3x3'"),
        ("0.99", "inf", "column 'importance': must be finite, got 'inf'"),
        ("0.99", "good", "column 'importance': must be a number, got 'good'"),
        ("conv_comb", "convs", "has no column 'conv_comb'"),
    ],
)
def test_errors_of_importances_name_the_column(write, old, new, message):
    with pytest.raises(InputError) as caught:
        read_importance(write(IMPORTANCE.replace(old, new)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("st,end,time\n", "has no entries"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not a CSV file"),
        ("st,end\0,time\n", "holds binary data"),
        ("x" * 200_000, "is not a CSV file: field larger than field limit"),
    ],
)
def test_what_is_no_table_is_refused(write, content, message):
    with pytest.raises(InputError, match=message):
        read_latency(write(content))


def test_other_formats_are_named_with_what_to_do(tmp_path):
    gzipped, workbook, utf_16 = (tmp_path / name for name in ("t.csv.gz", "t.xlsx", "t.csv"))
    gzipped.write_bytes(gzip.compress(LATENCY.encode()))
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    utf_16.write_text(LATENCY, encoding="utf-16")
    for path, message in (
        (gzipped, "is compressed by gzip: unpack it first"),
        (workbook, "is an Excel workbook or a zip archive: save it as CSV"),
        (utf_16, "is text in UTF-16: save it as CSV in UTF-8"),
    ):
        for read in (read_latency, read_importance):
            with pytest.raises(InputError, match=message):
                read(path)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_named(write, mark):
    with pytest.raises(InputError, match=r"separates its columns by .*: separate them by commas"):
        read_latency(write(f"st{mark}end{mark}time\n0{mark}1{mark}0,5\n"))


def test_swapped_tables_are_told_apart(write):
    with pytest.raises(InputError, match=r"looks like an importance table: .* no 'time'\. Swap"):
        read_latency(write(IMPORTANCE))
    with pytest.raises(InputError, match=r"looks like a latency table: .* no 'importance'\. Swap"):
        read_importance(write(LATENCY))


@pytest.mark.parametrize("digits", ["16777217", "9999999999", "99999999999999999999"])
def test_a_position_beyond_the_limit_names_limit_and_line(write, digits):
    message = f"line 2, column 'end': must be at most 16777216, as all positions, got {digits}"
    with pytest.raises(InputError, match=message):
        read_latency(write(LATENCY.replace("0,0,1", f"0,0,{digits}")))


def test_a_parquet_file_is_one_by_any_name(tmp_path):
    pytest.importorskip("pyarrow")
    table = read_latency(REFERENCE / "resnet34.s1.time.csv")
    write_latency(table, tmp_path / "t.parquet")
    renamed = (tmp_path / "t.parquet").rename(tmp_path / "t.pq")
    assert read_latency(renamed).latency_ns.tolist() == table.latency_ns.tolist()


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_latency(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*: No such file or directory"):
        read_importance(tmp_path / "none.csv")


def test_a_spread_that_is_not_known_is_zero(write):
    table = read_latency(write(LATENCY.replace(",0.0\n", ",nan\n")))
    assert table.stdev_ns.tolist() == [0]
    assert table.stdev_ns.dtype == np.int64


def test_an_entry_given_twice_names_both_lines(write):
    content = LATENCY + "\n1,0,2,3,1,False,1,0\n2,0,1,3,1,True,1,0\n"
    with pytest.raises(InputError) as caught:
        read_latency(write(content))
    message = "line 5, column 'st, end, ker, is_dw': segment 0..1 with kernel 3x3 (depthwise) is"
    assert f"{message} given twice, first in line 2" in str(caught.value)


def uncommon(content):
    """The same table, written so that the core leaves it to the patient reader."""
    return content + "\n\n"


NUMBERS = ("0", "1", "0.1", "14.22181", "0.0000005", "0.0000015", "1e-05", "2.5E+3", "123456789")


@given(st.lists(st.sampled_from(NUMBERS) | st.decimals(0, 10**9).map(str), min_size=1, max_size=9))
def test_quickly_read_milliseconds_are_those_of_decimal_arithmetic(times):
    lines = [f"{row},{row + 1},3,1,False,{time}" for row, time in enumerate(times)]
    content = "\n".join(["st,end,ker,str,is_dw,time", *lines]).encode()
    quick = quick_columns(content, "time")
    if quick is not None:
        assert quick["time"].tolist() == [ns_from_ms(time) for time in times]
    else:
        assert any(sum(map(str.isdigit, time)) > 18 or "E" in time for time in times)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_quickly_read_importances_are_those_of_python(values):
    lines = [f"{row},{row + 1},{value!r}" for row, value in enumerate(values)]
    content = "\n".join(["st,end,importance", *lines]).encode()
    assert quick_columns(content, "importance")["importance"].tolist() == values


@pytest.mark.parametrize("name", ["resnet34.s1", "mobilenetv2.s1"])
def test_the_quick_and_the_patient_reader_agree(name, write):
    for kind, read in (("time", read_latency), ("importance", read_importance)):
        content = (REFERENCE / f"{name}.{kind}.csv").read_text()
        assert quick_columns(content.encode(), kind, "conv_comb") is not None
        assert quick_columns(uncommon(content).encode(), kind, "conv_comb") is None
        quick, patient = read(write(content)), read(write(uncommon(content)))
        assert list(quick.entries.keys()) == list(patient.entries.keys())
        assert quick.entries.stride.tolist() == patient.entries.stride.tolist()
        if kind == "time":
            assert quick.latency_ns.tolist() == patient.latency_ns.tolist()
            assert quick.stdev_ns.tolist() == patient.stdev_ns.tolist()
        else:
            assert quick.importance.tolist() == patient.importance.tolist()
            assert quick.kept == patient.kept


@pytest.mark.parametrize("name", ["resnet34.s1", "mobilenetv2.s1"])
def test_tables_survive_being_written_as_parquet(name, tmp_path):
    pytest.importorskip("pyarrow")
    latency = read_latency(REFERENCE / f"{name}.time.csv")
    importance = read_importance(REFERENCE / f"{name}.importance.csv")
    write_latency(latency, tmp_path / "t.parquet")
    write_importance(importance, tmp_path / "i.parquet")
    again, importance_again = (
        read_latency(tmp_path / "t.parquet"),
        read_importance(tmp_path / "i.parquet"),
    )
    assert list(again.entries.keys()) == list(latency.entries.keys())
    assert again.latency_ns.tolist() == latency.latency_ns.tolist()
    assert importance_again.importance.tolist() == importance.importance.tolist()
    assert importance_again.kept == importance.kept


def test_what_is_no_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    path.write_text(LATENCY)
    with pytest.raises(InputError, match="is not a Parquet file"):
        read_latency(path)


def test_without_pyarrow_parquet_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependencyError, match=r"pip install 'layermerge\[parquet\]'"):
        read_latency(tmp_path / "t.parquet")


@pytest.mark.parametrize("field", ["1", '" 1"'])
def test_two_columns_of_one_name_are_refused(write, field):
    path = write(f"st,end,time,time\n0,1,{field},2\n")
    with pytest.raises(InputError, match=r"table\.csv has two columns 'time'"):
        read_latency(path)
    with pytest.raises(InputError, match="two columns 'importance'"):
        read_importance(write(f"st,end,importance,importance\n0,1,{field},2\n"))
