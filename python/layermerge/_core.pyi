"""
The C++ core: arrays in, arrays out. Use it through layermerge.solver.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['LatencyTable', 'Problem', 'Solution', 'frontier', 'kernel_sizes', 'parse_table', 'solve_binned', 'solve_exact', 'vector_instructions']
class Problem:
    """
    Validated arcs of a directed acyclic graph on positions 0..last_position.
    """
    def __init__(self, tail: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], head: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], latency_ns: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], value: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]) -> None:
        """
        Take int32 tail and head, int64 latency_ns, float64 value [arcs].
        """
    @property
    def arc_count(self) -> int:
        ...
    @property
    def last_position(self) -> int:
        ...
    @property
    def least_latency_ns(self) -> int:
        """
        Latency of the fastest path.
        """
class LatencyTable:
    """
    Signature of a merged convolution -> latency.
    """
    def __init__(self, signature: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], latency_ns: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]) -> None:
        """
        Take int64 signature [rows, width] and int64 latency_ns [rows].
        """
    def __len__(self) -> int:
        ...
    def lookup(self, signature: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]) -> numpy.typing.NDArray[numpy.int64]:
        """
        Latency of each row, int64 [rows].
        """
class Solution:
    """
    A path within a budget, and what is proven about it.
    """
    @property
    def arcs(self) -> numpy.typing.NDArray[numpy.int32]:
        ...
    @property
    def arcs_left(self) -> int:
        """
        Arcs that the bounds left to search.
        """
    @property
    def labels(self) -> int:
        """
        Labels made by the search.
        """
    @property
    def latency_ns(self) -> int:
        ...
    @property
    def optimal(self) -> bool:
        ...
    @property
    def seconds(self) -> float:
        """
        Time that the search took.
        """
    @property
    def ties_resolved(self) -> bool:
        ...
    @property
    def upper_bound(self) -> float:
        ...
    @property
    def value(self) -> float:
        ...
def frontier(problem: Problem, *, max_points: typing.SupportsInt | typing.SupportsIndex | None = None, epsilon: typing.SupportsFloat | typing.SupportsIndex = 0.0, memory_limit_bytes: typing.SupportsInt | typing.SupportsIndex = 2147483648) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.float64], float]:
    """
    Return (latency_ns int64 [n], value float64 [n], error) of the non-dominated paths.
    """
def kernel_sizes(growth_h: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], growth_w: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], weight_l1: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], irreducible: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], depthwise: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], *, program: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]] = ..., max_kernel_h: typing.SupportsInt | typing.SupportsIndex | None = None, max_kernel_w: typing.SupportsInt | typing.SupportsIndex | None = None) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.bool], numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.bool]]:
    """
    Return (kernel_size int32 [n, 2], is_depthwise bool [n], weight_l1 float64 [n], kept bool [n, layers]): each achievable kernel size with its best kept layers, and the empty set where it is possible. `program` (int32, postfix) connects the layers: an index, or -1 series, -2 sum, -3 join, -4 identity, -5 - index a window without a layer; empty: all in series.
    """
def parse_table(content: bytes, begin: typing.SupportsInt | typing.SupportsIndex, kinds: str) -> list[typing.Any] | None:
    """
    Read plain comma-separated lines, from a byte on; None if any field is written in another way. One letter per column says what it holds: w whole numbers, p pairs, t truth, m milliseconds as nanoseconds, f numbers, l layers, s nothing of interest.
    """
def solve_binned(problem: Problem, budget_ns: typing.SupportsInt | typing.SupportsIndex, *, bin_ns: typing.SupportsInt | typing.SupportsIndex, rounding: str = 'up', memory_limit_bytes: typing.SupportsInt | typing.SupportsIndex = 2147483648) -> tuple[numpy.typing.NDArray[numpy.int32], float, int]:
    """
    Return (arcs int32 [n], value, latency_ns) of the best path within the budget.
    """
def solve_exact(problem: Problem, budgets_ns: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], *, gap: typing.SupportsFloat | typing.SupportsIndex = 0.0, memory_limit_bytes: typing.SupportsInt | typing.SupportsIndex = 2147483648) -> list[Solution]:
    """
    Return the best path of each budget, proven.
    """
def vector_instructions() -> str:
    """
    What the inner loops run on, on this machine: 'avx512f', 'avx2' or 'baseline'.
    """
