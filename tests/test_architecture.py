"""The one-way dependency rule of docs/architecture.md, read off the imports."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import layermerge

PACKAGE = Path(layermerge.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
MAX_LINES = 350

TORCH_FREE = {
    "layermerge",
    "layermerge.arguments",
    "layermerge.callbacks",
    "layermerge.claims",
    "layermerge.config",
    "layermerge.checks",
    "layermerge.documents",
    "layermerge.errors",
    "layermerge.typed",
    "layermerge.milliseconds",
    "layermerge.network",
    "layermerge.candidates",
    "layermerge.channels",
    "layermerge.dataflow",
    "layermerge.entries",
    "layermerge.enumeration",
    "layermerge.paper_space",
    "layermerge.restrictions",
    "layermerge.search_space",
    "layermerge.structure",
    "layermerge.windows",
    "layermerge.tables",
    "layermerge.table_content",
    "layermerge.table_files",
    "layermerge.plan",
    "layermerge.budgeting",
    "layermerge.planning",
    "layermerge.frontier_plot",
    "layermerge.installation",
    "layermerge.instance",
    "layermerge.schema",
    "layermerge.selection",
    "layermerge.solver",
    "layermerge.source_files",
    "layermerge.store",
    "layermerge.results",
    "layermerge.processor",
    "layermerge.search_results",
    "layermerge.surveying",
    "layermerge.progress",
    "layermerge.importance",
    "layermerge.importance.bounds",
    "layermerge.importance.contest",
    "layermerge.importance.lazy",
    "layermerge.importance.scores",
    "layermerge.importance.search_options",
    "layermerge.importance.status",
    "layermerge.latency",
    "layermerge.latency.environment",
    "layermerge.latency.exchange",
    "layermerge.latency.fidelity",
    "layermerge.latency.heap",
    "layermerge.latency.options",
    "layermerge.latency.plot",
    "layermerge.latency.profile",
    "layermerge.latency.protocol",
    "layermerge.latency.rotation",
    "layermerge.latency.sentinel",
    "layermerge.latency.summary",
    "layermerge.latency.unfinished",
    "layermerge.whole_files",
}
"""Besides `layermerge.report`: what `import layermerge.solver` and tools without torch may use."""

LAYERS = (
    ("cli", "__main__"),
    ("commands",),
    ("demo",),
    ("pipeline", "recipes", "datasets"),
    ("image_files",),
    ("evidence", "exporting", "interchange"),
    ("models",),
    ("options",),
    ("importance.search",),
    ("importance.plan_search",),
    ("importance.ranking",),
    ("importance.estimation",),
    ("importance.ray_cluster", "importance.processes", "importance.executors"),
    ("importance.evaluation",),
    ("importance.proxies",),
    ("importance.estimators",),
    ("importance.closed_form",),
    ("importance.activations",),
    ("finetuning",),
    ("training",),
    ("schedules",),
    ("losses",),
    ("checkpoints", "feature_distillation", "finetune_settings", "labels", "training_log"),
    ("latency.trials",),
    ("latency.measuring", "latency.whole_networks"),
    ("latency.bench",),
    (
        "latency.analytic",
        "latency.compiled",
        "latency.cuda_graphs",
        "latency.eager",
        "latency.onnx_runtime",
        "latency.tensorrt",
    ),
    ("latency.backend",),
    (
        "latency.units",
        "latency.programs",
        "latency.placement",
        "latency.clocks",
        "latency.onnx_parts",
    ),
    ("merging", "composition"),
    ("verification",),
    ("rewriting", "halo"),
    ("unused",),
    ("tracing",),
    ("description",),
    ("accounting",),
    ("regions",),
    ("operations", "ordering", "slicing"),
    ("gates", "arithmetic"),
    ("sampling",),
    ("fingerprints",),
    ("configuration",),
    ("values", "convolutions"),
    ("graph",),
    ("probing",),
    ("borrowing",),
    ("lending",),
    ("batching", "recording", "function_calls", "graph_writer", "leaves", "library_modules"),
    ("tracked", "containers"),
    ("canonical", "model_checks"),
    ("activations",),
    ("seeding", "weights", "weight_ranges", "weights_files"),
)
"""What needs torch, from the top to the bottom: a module imports its own layer and those below."""

TORCH = {"torch", "torchvision", "timm", "safetensors"}
HEAVY = TORCH | {"sklearn", "matplotlib", "plotly", "pandas", "pyarrow", "onnxruntime"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Imports(ast.NodeVisitor):
    """Names that a module imports: when it is loaded, and at any time. Types do not count."""

    def __init__(self):
        self.on_load, self.ever = set(), set()
        self.depth = 0

    def visit_If(self, node):
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_Import(self, node):
        self._add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: imports are absolute"
        assert node.module
        names = (f"{node.module}.{alias.name}" for alias in node.names)
        self._add(name if name in MODULES else node.module for name in names)

    def _add(self, names):
        for name in names:
            self.ever.add(name)
            if not self.depth:
                self.on_load.add(name)


def imports_of(path):
    visitor = _Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor


MODULES = {module_of(path) for path in FILES} | {"layermerge._core"}
IMPORTS = {module_of(path): imports_of(path) for path in FILES}


def own(names):
    return {name for name in names if name.partition(".")[0] == "layermerge"}


def is_torch_free(module):
    return module in TORCH_FREE | {"layermerge._core"} or module.startswith("layermerge.report")


def layer_of(module):
    name = module.removeprefix("layermerge.")
    for height, names in enumerate(reversed(LAYERS)):
        if name in names or name.partition(".")[0] in names:
            return height
    return None


def test_the_imports_are_read():
    assert "layermerge._core" in IMPORTS["layermerge.solver"].on_load
    assert "torch" in IMPORTS["layermerge.merging"].on_load
    assert "torch" in IMPORTS["layermerge.commands.options"].ever
    assert "torch" not in IMPORTS["layermerge.commands.options"].on_load
    assert "layermerge.tracing" not in IMPORTS["layermerge"].ever


def test_every_module_is_known_to_the_rule():
    assert MODULES >= TORCH_FREE
    unknown = {name for name in MODULES if is_torch_free(name) == (layer_of(name) is not None)}
    assert unknown == set(), "say in this file where they belong"


def test_every_import_of_our_own_exists():
    missing = {
        (module, name)
        for module, imports in IMPORTS.items()
        for name in own(imports.ever)
        if name not in MODULES
    }
    assert missing == set()


@pytest.mark.parametrize("module", sorted(name for name in IMPORTS if is_torch_free(name)))
def test_what_is_free_of_torch_never_imports_it(module):
    found = IMPORTS[module].ever
    assert not {name.partition(".")[0] for name in found} & TORCH
    assert not {name.partition(".")[0] for name in IMPORTS[module].on_load} & HEAVY
    assert {name for name in own(found) if not is_torch_free(name)} == set()


@pytest.mark.parametrize("module", sorted(name for name in IMPORTS if not is_torch_free(name)))
def test_what_needs_torch_imports_only_its_own_layer_and_those_below(module):
    above = {
        name
        for name in own(IMPORTS[module].ever)
        if not is_torch_free(name) and layer_of(name) > layer_of(module)
    }
    assert above == set()


def test_the_report_reads_results_only():
    found = set()
    for module, imports in IMPORTS.items():
        if module.startswith("layermerge.report"):
            found |= own(imports.ever)
    others = {name for name in found if not name.startswith("layermerge.report")}
    assert others <= {
        "layermerge.arguments",
        "layermerge.results",
        "layermerge.search_results",
        "layermerge.errors",
        "layermerge.latency.environment",
        "layermerge.whole_files",
    }


def test_only_the_command_line_imports_the_command_line():
    ends = ("layermerge.cli", "layermerge.commands", "layermerge.demo")
    for module, imports in IMPORTS.items():
        if not module.startswith(("layermerge.cli", "layermerge.commands", "layermerge.__main__")):
            assert not [name for name in own(imports.ever) if name.startswith(ends)], module


@pytest.mark.parametrize("module", ["layermerge.cli", "layermerge.solver"])
def test_loading_it_loads_nothing_heavy(module):
    loaded, waiting = set(), {module}
    while waiting:
        loaded |= waiting
        found = set().union(*(IMPORTS[name].on_load for name in waiting if name in IMPORTS))
        waiting = own(found) - loaded
        assert not {name.partition(".")[0] for name in found} & HEAVY


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: own(imports.ever) - {module} for module, imports in IMPORTS.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == MODULES


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_is_longer_than_a_few_screens(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
