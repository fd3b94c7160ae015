"""The heap while latencies are measured: freed memory stays with the process."""

import json
import subprocess
import sys

import pytest

from layermerge.latency.heap import heap_rule

FEW = 100  # of pages; even of 2 MiB, the tensor takes more

# A process of its own: an allocation that failed in an earlier test has moved this one's thread to
# an arena that holds no such block.
PROGRAM = """
import json, resource
import torch
from layermerge.latency.heap import kept_heap

def faults_of_a_large_tensor():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_heap():
    kept = [faults_of_a_large_tensor() for _ in range(40)]
print(json.dumps({"kept": kept, "after": faults_of_a_large_tensor()}))
"""

pytestmark = pytest.mark.skipif(not heap_rule(), reason="the C library is not glibc")


def test_a_block_that_was_freed_is_used_again_without_new_pages_until_the_end() -> None:
    faults = json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM], timeout=120))
    assert faults["kept"][0] > FEW
    # A block is cut to its alignment, so that the next one may need a hole a few bytes larger: nine
    # or so come anew before there is one for all.
    assert faults["kept"][-1] < FEW
    assert faults["after"] > FEW
