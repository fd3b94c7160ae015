"""The heap while latencies are measured: freed memory stays with the process."""

import resource

import pytest
import torch

from layermerge.latency.heap import heap_rule, kept_heap

ELEMENTS = 30_000_000  # of 4 bytes: larger than any hole that earlier tests may have left
FEW = 100  # of pages; even of 2 MiB, the tensor takes more

pytestmark = pytest.mark.skipif(not heap_rule(), reason="the C library is not glibc")


def faults_of_a_large_tensor() -> int:
    """Page faults of making and writing a large tensor, which is freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(ELEMENTS).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_block_that_was_freed_is_used_again_without_new_pages() -> None:
    with kept_heap():
        faults = [faults_of_a_large_tensor() for _ in range(8)]
    assert faults[-1] < FEW  # the first ones find no hole into which an aligned block fits


def test_what_was_kept_is_given_back() -> None:
    with kept_heap():
        faults_of_a_large_tensor()
    assert faults_of_a_large_tensor() > FEW
