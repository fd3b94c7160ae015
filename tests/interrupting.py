"""Ctrl-C, as a user would press it, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

no_sigint = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a single process")

SCRIPT = """
import signal
import numpy as np
from layermerge import _core
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
random = np.random.default_rng(0)
{prepare}
print("working", flush=True)
try:
    {work}
    print("done", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def assert_stops_at_once(prepare: str, work: str) -> None:
    """Start work that takes a second at least, press Ctrl-C, and see it end."""
    script = SCRIPT.format(prepare=textwrap.dedent(prepare), work=work)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        time.sleep(0.3)
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        # Within 0.2 s of work; more here, for busy machines.
        assert time.perf_counter() - began < 1.0
