"""Trainings that end as if their process had been killed."""

from __future__ import annotations

import pytest

from layermerge.finetuning import finetune


class KilledError(Exception):
    pass


ALWAYS = property(lambda checkpoint: checkpoint.path is not None)


def train_until(step, model, checkpoint, settings, data, **options):
    """Train, and stop after a step as if the process had been killed, its state on disk."""

    def count(module, inputs):
        if module.training:
            calls.append(1)
            if len(calls) > step:
                raise KilledError

    calls = []
    model.register_forward_pre_hook(count)
    with pytest.raises(KilledError):
        finetune(model, data, settings, checkpoint=checkpoint, **options)
