"""Whatever a body raises is recorded, and comes back as an exception; without servers."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator

import pytest
from celery import Celery

from celery_saga import Saga, SagaCompensated, SagaManager, SagaStuck
from celery_saga.core.failures import FAILURE_TEXT, exception_of, recorded
from celery_saga.core.state import Failure
from tests.odd_errors import ODD

#: Characters of a record, whatever was raised.
SHORT = 2 * FAILURE_TEXT

odd = pytest.mark.parametrize("what", ODD)


def expect_recorded(failure: Failure, what: str) -> None:
    _, kind, text = ODD[what]
    assert kind in failure.type
    assert text in failure.message
    assert all(type(part) is str for part in (failure.type, failure.message))
    shown = json.dumps([failure.type, failure.message], ensure_ascii=False)
    assert len(shown.encode()) < SHORT
    assert "\\u0000" not in shown


@odd
def test_it_is_recorded(what: str) -> None:
    failure = recorded(ODD[what][0](), "pay")
    expect_recorded(failure, what)
    assert failure.step == "pay"


@odd
def test_it_comes_back(what: str) -> None:
    failure = recorded(ODD[what][0](), "pay")
    back = exception_of(failure)
    assert isinstance(back, Exception)
    assert str(back) == failure.message
    assert "".join(traceback.format_exception(None, back, None))


class Exits(Exception):
    """The text alone makes it end the process."""

    def __init__(self, *args: str) -> None:
        raise SystemExit


class Other(Exception):
    """Making one gives something else."""

    def __new__(cls, *args: str) -> Other:
        return "made"  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["Exits", "Other"])
def test_a_class_that_cannot_be_made_is_stood_in_for(name: str) -> None:
    back = exception_of(Failure(f"{__name__}.{name}", "made", "pay"))
    assert isinstance(back, Exception)
    assert (type(back).__name__, str(back)) == (name, "made")
    assert name in repr(back)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery logs them as they are, and xdist cannot carry all of that."""
    monkeypatch.setattr(logging.getLogger("celery.app.trace"), "disabled", True)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("odd", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    SagaManager(app)
    yield app
    app.close()


@odd
def test_a_step_that_raises_it_ends_its_saga(app: Celery, what: str) -> None:
    compensated: list[str] = []

    @app.task(name="odd.do", shared=False)
    def do() -> None: ...

    @app.task(name="odd.compensation", shared=False)
    def compensation() -> None:
        compensated.append("do")

    @app.task(name="odd.raises", shared=False)
    def raises() -> None:
        raise ODD[what][0]()

    saga = Saga("odd", app=app)
    saga.local_step(do).on_failure(compensation)
    saga.local_step(raises)
    result = saga.commit().delay()

    assert result.status.value == "COMPENSATED"
    assert compensated == ["do"]
    error = result.execution.error
    assert error is not None
    expect_recorded(error, what)
    with pytest.raises(SagaCompensated) as caught:
        result.get()
    assert caught.value.step == "raises"
    assert len(str(caught.value)) < SHORT
    assert repr(result.execution)


@odd
def test_a_compensation_that_raises_it_leaves_its_saga_stuck(app: Celery, what: str) -> None:
    @app.task(name="odd.do", shared=False)
    def do() -> None: ...

    @app.task(name="odd.compensation", shared=False)
    def compensation() -> None:
        raise ODD[what][0]()

    @app.task(name="odd.raises", shared=False)
    def raises() -> None:
        raise ValueError("declined")

    saga = Saga("odd", app=app)
    saga.local_step(do).on_failure(compensation, max_attempts=2, retry_backoff=0)
    saga.local_step(raises)
    result = saga.commit().delay()

    assert result.status.value == "STUCK"
    error = result.execution.steps[0].compensation_error
    assert error is not None
    expect_recorded(error, what)
    with pytest.raises(SagaStuck) as caught:
        result.get()
    assert caught.value.step == "do"
    assert len(str(caught.value)) < SHORT
