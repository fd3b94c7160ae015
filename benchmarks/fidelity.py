"""How well do sums of parts predict whole networks? Original and ten random plans of each model.

    python benchmarks/fidelity.py STUDY.db MODEL [--backend B] [--batch N] [--seconds S]

prints a line of JSON. What the study holds is not measured again, so that a run can be continued.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import torch
import torchvision

import layermerge as lm
from layermerge.latency.fidelity import modest, random_plans, restricted
from layermerge.latency.trials import try_plans

NUM_PLANS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("model")
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--plans", type=int, default=NUM_PLANS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = getattr(torchvision.models, arguments.model)().eval()
    image = torch.randn(arguments.batch, 3, 224, 224)
    network = lm.trace(model, image)
    space = modest(lm.enumerate_candidates(network))
    plans = {f"plan {n}": p for n, p in enumerate(random_plans(space, arguments.plans))}
    base = lm.merge(lm.rewrite(model, lm.original_plan(network)))
    options = lm.LatencyOptions(
        backend=arguments.backend,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=1,
        max_seconds=arguments.seconds,
    )
    profile = lm.measure_latency(
        model,
        network,
        restricted(space, plans.values()),
        example_inputs=image,
        deployed=base,
        options=options,
        study=arguments.study,
    )
    fidelity = try_plans(
        model,
        base,
        profile,
        plans,
        example_inputs=image,
        options=options,
        study=arguments.study,
    )
    document = {
        "model": arguments.model,
        "environment": str(profile.environment),
        "effort": asdict(profile.effort),
        "late": len(profile.imprecise(options.target_rsd)),
        "summary": str(fidelity),
        "trials": [
            {
                **asdict(t),
                "raw": round(t.error(), 4),
                "error": round(t.error(fidelity.calibration), 4),
            }
            for t in fidelity.trials
        ],
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
