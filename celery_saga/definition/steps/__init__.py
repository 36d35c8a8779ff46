"""The kinds of steps, as the builder of a saga keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from celery_saga.definition.steps.base import LocalSagaStep, SagaStep, StepOwner
from celery_saga.definition.steps.choice import ConditionalSagaStep
from celery_saga.definition.steps.groups import (
    ForEachSagaStep,
    NestedSagaStep,
    ParallelSagaStep,
)
from celery_saga.definition.steps.remote import RemoteSagaStep
from celery_saga.definition.steps.waits import SleepSagaStep, WaitSagaStep

if TYPE_CHECKING:
    from celery_saga.definition.operations import Target

    #: What a saga takes as a step.
    Step: TypeAlias = Target | SagaStep

__all__ = [
    "ConditionalSagaStep",
    "ForEachSagaStep",
    "LocalSagaStep",
    "NestedSagaStep",
    "ParallelSagaStep",
    "RemoteSagaStep",
    "SagaStep",
    "SleepSagaStep",
    "StepOwner",
    "WaitSagaStep",
]
