"""``cancel()`` says whether it was this call that changed the outcome."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.core import events as ev
from celery_saga.core.execution import Claim, Direction, StepRef
from celery_saga.runtime import runtime_of
from celery_saga.stores.memory import MemoryStore


@pytest.fixture
def result() -> Iterator[SagaResult]:
    """A saga whose only step runs, on a store whose clock does not advance."""
    app = Celery("cancel", broker="memory://", set_as_current=False)
    SagaManager(app, storage=MemoryStore(lambda: 1_000.0))

    @app.task(name="cancel.step", shared=False)
    def step() -> None:
        pass

    found = Saga("cancel", app=app, steps=[step]).commit().delay()
    ref = found.execution.ref(0)
    assert ref is not None
    runtime_of(app).store.claim(found.id, ref, Claim("held", "instance"))
    yield found
    app.close()


def test_two_at_the_same_moment_with_the_same_words(result: SagaResult) -> None:
    assert (result.cancel(), result.cancel()) == (True, False)


@pytest.mark.parametrize("first", ["cancel", "the last commit"])
def test_against_the_last_commit(result: SagaResult, first: str) -> None:
    """The second save finds the other's revision, and its event is decided again."""
    orchestrator = result._runtime.orchestrator
    known = result.execution
    done = ev.StepSucceeded(1_000.0, StepRef((0,), Direction.FORWARD, 1), "held")
    if first == "cancel":
        assert result.cancel() is True
        assert orchestrator.apply(result.id, done, known).execution.status == "COMPENSATED"
    else:
        orchestrator.apply(result.id, done, known)
        cancelled = ev.CancelRequested(1_000.0)
        after, changed = orchestrator.apply(result.id, cancelled, known)
        assert (after.status, changed) == ("COMPLETED", False)
        assert result.cancel() is False
