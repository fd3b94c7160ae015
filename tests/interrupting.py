"""Ctrl-C, as a user would press it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

no_sigint = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a single process")

SCRIPT = """
import os, signal, threading, time
import numpy as np
from layermerge import _core
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
random = np.random.default_rng(0)
{prepare}
pressed = []
def press():
    pressed.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.3, press).start()
try:
    {work}
    print("done")
except KeyboardInterrupt:
    print("interrupted", time.process_time() - pressed[0])
"""


def assert_stops_at_once(prepare: str, work: str) -> None:
    """Start work that takes a second at least, press Ctrl-C, and see it end."""
    script = SCRIPT.format(prepare=textwrap.dedent(prepare), work=work)
    found = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    )
    word, seconds = found.stdout.split()
    assert word == "interrupted"
    # Of processor time, which other work on the machine does not lengthen: 0.2 s, and some slack.
    assert float(seconds) < 1.0
