"""ResNet-50 at 224x224: seconds to trace and enumerate, and to merge a plan; memory for it.

Threads are as torch has them: set OMP_NUM_THREADS.
"""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest
import torch

import layermerge as lm
from layermerge.latency.fidelity import random_plans
from layermerge.plan import plan_of
from layermerge.verification import verification
from networks import conditioned, images

SEED = 0


def resnet50():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.resnet50(weights=None).eval()


@pytest.fixture(scope="module")
def model_and_image():
    image = images(1, 3, 224, 224)
    return conditioned(resnet50(), image), image


def trace_and_enumerate(model, image):
    network = lm.trace(model, image)
    return network, lm.SearchSpace().enumerate(network)


def test_trace_and_enumerate(benchmark, model_and_image):
    network, space = benchmark.pedantic(
        trace_and_enumerate, model_and_image, rounds=5, warmup_rounds=1
    )
    assert network.num_layers == 53
    assert len(space.candidates) > 100
    assert benchmark.stats.stats.max < 5


@pytest.mark.parametrize("what", ["merge", "rewrite_and_merge"])
def test_merge_a_random_plan(benchmark, model_and_image, what):
    """Verification included, which `merge` always does."""
    model, image = model_and_image
    network, space = trace_and_enumerate(model, image)
    plan = plan_of(network, random_plans(space, 1, seed=SEED)[0])
    student = lm.rewrite(model, plan)

    def rewrite_and_merge():
        return lm.merge(lm.rewrite(model, plan))

    run = rewrite_and_merge if what == "rewrite_and_merge" else lambda: lm.merge(student)
    merged = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert verification(merged).float64_error <= 1e-10
    assert benchmark.stats.stats.max < 10


def resident_bytes(field):
    """Memory of this process as Linux counts it: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", text)[1])


def added_bytes(function, *arguments):
    """What a call adds to the memory of this process at most, and its result."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident_bytes("VmRSS")
    result = function(*arguments)
    return resident_bytes("VmHWM") - before, result


def measure_alone(results):
    model, image = resnet50(), images(1, 3, 224, 224)
    model_bytes = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)).eval()
    lm.merge(lm.rewrite(small, lm.original_plan(lm.trace(small, image))))  # load what torch loads
    traced, (network, space) = added_bytes(trace_and_enumerate, model, image)
    conditioned(model, image)
    plan = plan_of(network, random_plans(space, 1, seed=SEED)[0])
    rewritten, student = added_bytes(lm.rewrite, model, plan)
    merged, _ = added_bytes(lm.merge, student)
    results.put([added / model_bytes for added in (traced, rewritten, merged)])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read off Linux")
def test_memory_in_units_of_the_model(benchmark):
    """Tracing adds the values of a few layers, rewriting a copy, merging the longest segments."""
    pytest.importorskip("torchvision.models")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()

    def run():
        process = context.Process(target=measure_alone, args=(results,))
        process.start()
        found = results.get(timeout=240)
        process.join()
        return found

    traced, rewritten, merged = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(traced=traced, rewritten=rewritten, merged=merged)
    print(
        f"\nadded at most: by tracing {traced:.2f}, rewriting {rewritten:.2f}, {merged:.2f} merging"
    )
    assert 1 + traced < 2
    assert rewritten < 2
