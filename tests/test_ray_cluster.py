from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

import callbacks
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, MissingDependencyError
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.evaluation import Job
from layermerge.importance.executors import SERIAL
from layermerge.importance.ray_cluster import RayCluster
from layermerge.store import Study
from layermerge.tracing import trace
from networks import tiny_classifier


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    network = trace(model, torch.zeros(2, 1, 8, 8))
    return model, network, enumerate_candidates(network)


def estimate(traced, **options):
    callables = {"score_fn": callbacks.score, "train_fn": callbacks.train}
    return estimate_importance(*traced, **{**callables, "progress": False, **options})


def test_without_ray_the_extra_is_named(traced, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'layermerge\[ray\]'"):
        estimate(traced, executor=RayCluster())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": 6379}, "address must be text, got 6379"),
        ({"gpus_per_task": -1}, "gpus_per_task must be a finite number of at least 0, got -1"),
        ({"cpus_per_task": "4"}, "cpus_per_task must be a finite number of at least 0, got '4'"),
    ],
)
def test_tasks_that_cannot_be_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        RayCluster(**options)


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no evaluation, and two nodes with one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The nodes hand their environment on to the workers, which must find `callbacks`.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()
    monkeypatch.undo()
    torch.set_num_threads(threads)


def test_an_address_where_nothing_listens_is_refused_at_once(traced):
    pytest.importorskip("ray", reason="Ray is not installed")
    job = Job(traced[0], traced[1], ShortFineTune(callbacks.score, None), 0, 1)
    with pytest.raises(InputError, match=r"no Ray cluster at '127.0.0.1:1': .*refused"):
        RayCluster("127.0.0.1:1").open(job).__enter__()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own, about its sockets and its future
class TestCluster:
    def test_an_evaluation_that_no_node_can_run_is_refused(self, traced, cluster):
        executor = RayCluster(cluster.address, cpus_per_task=3)
        job = Job(traced[0], traced[1], ShortFineTune(callbacks.score, None), 0, 1)
        with pytest.raises(InputError, match="would wait forever"), executor.open(job):
            pass

    def test_a_node_that_dies_costs_nothing_but_time(self, traced, cluster, tmp_path):
        train = callbacks.Recording(tmp_path / "calls", 0.3)
        train.folder.mkdir()
        whole = estimate(traced)
        with Study(tmp_path / "run.db") as study:
            executor = _Interrupted(RayCluster(cluster.address), cluster)
            scores = estimate(traced, train_fn=train, study=study, executor=executor)
            assert scores == whole
            assert executor.was_removed
            again = estimate(traced, study=study, executor=SERIAL)
        assert again == whole
        pids = {path.name.partition("-")[0] for path in train.folder.iterdir()}
        assert len(pids) >= 2
        assert str(os.getpid()) not in pids


class _Interrupted:
    """Removes a node of the cluster, without notice, when the first result has arrived."""

    def __init__(self, executor, cluster):
        self.executor, self.cluster, self.was_removed = executor, cluster, False

    def open(self, job):
        return _Opened(self.executor.open(job), self)

    def remove(self):
        if not self.was_removed:
            self.cluster.remove_node(self.cluster.nodes[0], allow_graceful=False)
            self.was_removed = True


class _Opened:
    def __init__(self, context, owner):
        self.context, self.owner = context, owner

    def __enter__(self):
        run, slots = self.context.__enter__()
        assert slots == 2

        def watched(candidates):
            for result in run(candidates):
                yield result
                self.owner.remove()

        return watched, slots

    def __exit__(self, *error):
        return self.context.__exit__(*error)
