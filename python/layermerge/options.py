"""The options of `compress`: how to search, measure and evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field

from layermerge.checks import check_instance, check_seed, check_texts
from layermerge.errors import InputError
from layermerge.importance.executors import SERIAL, Executor, check_executor
from layermerge.importance.search_options import LAZY, SearchOptions
from layermerge.latency.options import DEFAULT_OPTIONS, LatencyOptions
from layermerge.search_space import SearchSpace


@dataclass(frozen=True)
class Options:
    """How to search and measure; the defaults suit most networks.

    Attributes
    ----------
    space : SearchSpace
        What a plan is chosen from.
    search : SearchOptions
        Objective, bounds, and whether every candidate is evaluated.
    executor : Executor
        Where candidates are evaluated; see `layermerge.importance.executors`.
    init : {"composed", "least_squares"}
        What fine-tunes start from: the weights that are kept, or segments merged in closed form on
        calibration data.
    is_ranked : bool
        Whether candidates are ranked in closed form before the search, where calibration data is
        given. That takes a few forward passes for each, and saves few fine-tunes: leave it out
        where these take no longer.
    latency : LatencyOptions
        How latency is measured: backend, device, precision.
    estimator : str
        Names what `score_fn` and `train_fn` do; see `estimate_importance`.
    finetuner : str
        Names what `finetune_fn` does. A study holds the fine-tuned weights by this name: change it
        when that changes.
    score_name : str
        What a score is, for the report.
    seed : int
    progress : bool
        Show progress bars of everything but latency, which has an option of its own.
    """

    space: SearchSpace = field(default_factory=SearchSpace)
    search: SearchOptions = LAZY
    executor: Executor = SERIAL
    init: str = "composed"
    is_ranked: bool = True
    latency: LatencyOptions = DEFAULT_OPTIONS
    estimator: str = "custom"
    finetuner: str = "custom"
    score_name: str = "score"
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        for name, kind in (
            ("space", SearchSpace),
            ("search", SearchOptions),
            ("latency", LatencyOptions),
        ):
            check_instance(name, getattr(self, name), kind, f"{kind.__name__}(...)")
        check_executor(self.executor)
        check_texts(self, "init", "estimator", "finetuner", "score_name")
        for name in ("estimator", "finetuner"):
            if not getattr(self, name):
                raise InputError(f"{name} must be a name, got an empty text")
        check_instance("is_ranked", self.is_ranked, bool, "True or False")
        check_seed(self.seed)


DEFAULTS = Options()
