"""Trainings that end as if their process had been killed."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import pytest

from layermerge.finetuning import finetune
from layermerge.training import Training


class KilledError(Exception):
    pass


ALWAYS = property(lambda checkpoint: checkpoint.path is not None)


@contextmanager
def counting_steps(most=float("inf")):
    """The steps that trainings take; they are killed in the one after the most."""
    taken, step = [], Training._step

    def counted(training, *batch):
        if len(taken) == most:
            raise KilledError
        taken.append(batch)
        step(training, *batch)

    with mock.patch.object(Training, "_step", counted):
        yield taken


def train_until(step, model, checkpoint, settings, data, **options):
    """Train, and stop after a step as if the process had been killed, its state on disk."""
    with counting_steps(step), pytest.raises(KilledError):
        finetune(model, data, settings, checkpoint=checkpoint, **options)
