"""Make convolutional networks faster by making them shallower.

Names are loaded on first use: `import layermerge` alone loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermerge.errors import InfeasibleError, InputError, LayerMergeError
    from layermerge.solver import Frontier, Selection, frontier, solve, solve_many
    from layermerge.table_files import (
        read_importance,
        read_latency,
        write_importance,
        write_latency,
    )
    from layermerge.tables import ImportanceTable, LatencyTable

__all__ = [
    "Frontier",
    "ImportanceTable",
    "InfeasibleError",
    "InputError",
    "LatencyTable",
    "LayerMergeError",
    "Selection",
    "frontier",
    "read_importance",
    "read_latency",
    "solve",
    "solve_many",
    "write_importance",
    "write_latency",
]

_MODULE_OF = {
    "Frontier": "layermerge.solver",
    "ImportanceTable": "layermerge.tables",
    "InfeasibleError": "layermerge.errors",
    "InputError": "layermerge.errors",
    "LatencyTable": "layermerge.tables",
    "LayerMergeError": "layermerge.errors",
    "Selection": "layermerge.solver",
    "read_importance": "layermerge.table_files",
    "read_latency": "layermerge.table_files",
    "frontier": "layermerge.solver",
    "solve": "layermerge.solver",
    "solve_many": "layermerge.solver",
    "write_importance": "layermerge.table_files",
    "write_latency": "layermerge.table_files",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("layermerge")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'layermerge' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
