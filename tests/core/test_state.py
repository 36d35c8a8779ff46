"""The records of an execution, and copies of them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import pytest

from celery_saga.core.execution import SagaExecution
from celery_saga.core.plan import Call, Plan, PlanStep
from celery_saga.core.state import SagaStepExecution, StepStatus, replace

RECORDS = {"execution": SagaExecution, "step": SagaStepExecution}


class TestReplace:
    def test_it_gives_what_the_standard_library_gives(self) -> None:
        step = SagaStepExecution("charge", epoch=2, kept={"total": "1"})
        changes: dict[str, Any] = {"status": StepStatus.RUNNING, "kept": None}
        assert replace(step, **changes) == dataclasses.replace(step, **changes)

    def test_the_original_is_unchanged(self) -> None:
        execution = SagaExecution.create("7", Plan("s", (PlanStep("a", Call("t")),)), {}, at=1.0)
        assert replace(execution, updated_at=2.0).updated_at == 2.0
        assert execution.updated_at == 1.0

    def test_a_field_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(TypeError, match="no field epok"):
            replace(SagaStepExecution("charge"), **{"epok": 1})

    @pytest.mark.parametrize("name", sorted(RECORDS))
    def test_no_record_caches_what_follows_from_its_fields(self, name: str) -> None:
        """A copy would have the cached value of the original."""
        cached = [each for each in vars(RECORDS[name]).values() if type(each) is cached_property]
        assert cached == []
