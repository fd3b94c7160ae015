"""Make convolutional networks faster by making them shallower.

Names are loaded on first use: `import layermerge` alone loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermerge.candidates import CandidateSpace
    from layermerge.enumeration import enumerate_candidates
    from layermerge.errors import (
        InfeasibleError,
        InputError,
        LayerMergeError,
        UnsupportedModelError,
    )
    from layermerge.exporting import load, save
    from layermerge.finetune_settings import FinetuneSettings
    from layermerge.finetuning import finetune
    from layermerge.importance.closed_form import merge_least_squares
    from layermerge.importance.estimation import estimate_importance
    from layermerge.importance.scores import ImportanceScores
    from layermerge.importance.search import FoundPlans, find_plans
    from layermerge.importance.search_options import SearchOptions
    from layermerge.interchange import Exported, export_onnx, export_pt2
    from layermerge.latency.measuring import measure_latency
    from layermerge.latency.options import LatencyOptions, Roofline
    from layermerge.latency.profile import LatencyProfile
    from layermerge.latency.whole_networks import measure_modules
    from layermerge.merging import merge
    from layermerge.models import load_model
    from layermerge.network import Network
    from layermerge.options import Options
    from layermerge.pipeline import Compression, compress
    from layermerge.plan import Plan, load_plan, original_plan
    from layermerge.planning import Budget, make_plan
    from layermerge.results import Result
    from layermerge.rewriting import rewrite
    from layermerge.search_space import SearchSpace
    from layermerge.selection import Selection
    from layermerge.solver import Frontier, frontier, solve, solve_many
    from layermerge.store import Study
    from layermerge.table_files import (
        read_importance,
        read_latency,
        write_importance,
        write_latency,
    )
    from layermerge.tables import ImportanceTable, LatencyTable, look_up_latency
    from layermerge.tracing import trace

__all__ = [
    "Budget",
    "CandidateSpace",
    "Compression",
    "Exported",
    "FinetuneSettings",
    "FoundPlans",
    "Frontier",
    "ImportanceScores",
    "ImportanceTable",
    "InfeasibleError",
    "InputError",
    "LatencyOptions",
    "LatencyProfile",
    "LatencyTable",
    "LayerMergeError",
    "Network",
    "Options",
    "Plan",
    "Result",
    "Roofline",
    "SearchOptions",
    "SearchSpace",
    "Selection",
    "Study",
    "UnsupportedModelError",
    "compress",
    "enumerate_candidates",
    "estimate_importance",
    "export_onnx",
    "export_pt2",
    "find_plans",
    "finetune",
    "frontier",
    "load",
    "load_model",
    "load_plan",
    "look_up_latency",
    "make_plan",
    "measure_latency",
    "measure_modules",
    "merge",
    "merge_least_squares",
    "original_plan",
    "read_importance",
    "read_latency",
    "rewrite",
    "save",
    "solve",
    "solve_many",
    "trace",
    "write_importance",
    "write_latency",
]

_MODULE_OF = {
    "Budget": "layermerge.planning",
    "CandidateSpace": "layermerge.candidates",
    "Compression": "layermerge.pipeline",
    "Exported": "layermerge.interchange",
    "FinetuneSettings": "layermerge.finetune_settings",
    "FoundPlans": "layermerge.importance.search",
    "Frontier": "layermerge.solver",
    "ImportanceScores": "layermerge.importance.scores",
    "ImportanceTable": "layermerge.tables",
    "InfeasibleError": "layermerge.errors",
    "InputError": "layermerge.errors",
    "LatencyOptions": "layermerge.latency.options",
    "LatencyProfile": "layermerge.latency.profile",
    "LatencyTable": "layermerge.tables",
    "LayerMergeError": "layermerge.errors",
    "Network": "layermerge.network",
    "Options": "layermerge.options",
    "Plan": "layermerge.plan",
    "Result": "layermerge.results",
    "SearchSpace": "layermerge.search_space",
    "SearchOptions": "layermerge.importance.search_options",
    "Roofline": "layermerge.latency.options",
    "Selection": "layermerge.selection",
    "Study": "layermerge.store",
    "UnsupportedModelError": "layermerge.errors",
    "compress": "layermerge.pipeline",
    "enumerate_candidates": "layermerge.enumeration",
    "estimate_importance": "layermerge.importance.estimation",
    "export_onnx": "layermerge.interchange",
    "export_pt2": "layermerge.interchange",
    "find_plans": "layermerge.importance.search",
    "finetune": "layermerge.finetuning",
    "frontier": "layermerge.solver",
    "load": "layermerge.exporting",
    "load_model": "layermerge.models",
    "load_plan": "layermerge.plan",
    "look_up_latency": "layermerge.tables",
    "make_plan": "layermerge.planning",
    "measure_latency": "layermerge.latency.measuring",
    "measure_modules": "layermerge.latency.whole_networks",
    "merge": "layermerge.merging",
    "merge_least_squares": "layermerge.importance.closed_form",
    "original_plan": "layermerge.plan",
    "read_importance": "layermerge.table_files",
    "read_latency": "layermerge.table_files",
    "rewrite": "layermerge.rewriting",
    "save": "layermerge.exporting",
    "solve": "layermerge.solver",
    "solve_many": "layermerge.solver",
    "trace": "layermerge.tracing",
    "write_importance": "layermerge.table_files",
    "write_latency": "layermerge.table_files",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("layermerge")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'layermerge' has no attribute '{name}'")
    try:
        module = import_module(_MODULE_OF[name])
    except ModuleNotFoundError as error:
        raise import_module("layermerge.errors").missing(error) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
