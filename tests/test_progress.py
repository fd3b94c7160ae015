from __future__ import annotations

import io
import sys

import pytest

from layermerge import progress
from layermerge.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_on(monkeypatch, stream, **options):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("Measuring", 4, **options) as show:
        show(1)
        show(4)
    return stream.getvalue()


def test_a_terminal_sees_what_goes_on_and_how_far_it_is(monkeypatch):
    shown = show_on(monkeypatch, Terminal())
    assert "Measuring" in shown
    assert "100%" in shown


@pytest.mark.parametrize(("stream", "enabled"), [(io.StringIO, True), (Terminal, False)])
def test_a_file_sees_nothing_and_neither_does_who_asked_for_silence(monkeypatch, stream, enabled):
    assert show_on(monkeypatch, stream(), enabled=enabled) == ""


def test_a_log_says_now_and_then_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_S", 0.0)
    with caplog.at_level("INFO", logger="layermerge"):
        assert show_on(monkeypatch, io.StringIO()) == ""
    assert [record.message for record in caplog.records] == ["Measuring: 25 %", "Measuring: 100 %"]
    caplog.clear()
    monkeypatch.setattr(progress, "LOG_S", 30.0)
    show_on(monkeypatch, io.StringIO())
    assert not caplog.records


def test_an_error_inside_the_block_passes_through(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), progress_bar("Measuring", 4):
        raise KeyError("lost")


@pytest.mark.parametrize(("level", "is_shown"), [("WARNING", False), ("INFO", True)])
def test_a_quiet_package_shows_no_bar(monkeypatch, caplog, level, is_shown):
    caplog.set_level(level, "layermerge")
    assert bool(show_on(monkeypatch, Terminal())) == is_shown
