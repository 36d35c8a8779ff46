"""All ways in which a saga ends: what ``get()`` returns or raises, ``failure`` and ``rollback``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from celery_saga import Saga, SagaCompensated, SagaResult, SagaStuck
from celery_saga.core.events import Overdue
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


class End(NamedTuple):
    """How a saga has ended.

    Args:
        error: what ``get()`` raises; None: it returns the context.
        text: a part of its text.
        failure: type, message and step.
        rollback: the statuses of steps.
    """

    error: type[Exception] | None
    text: str = ""
    failure: tuple[str, str, str] | None = None
    rollback: dict[str, str] = {}  # noqa: RUF012 - nothing changes it


def saga(shop: Shop, name: str) -> Any:
    """A saga whose first step has a compensation."""
    take, give_back = shop.app.tasks["shop.take"], shop.app.tasks["shop.give_back"]
    return (
        Saga(name, app=shop.app).local_step(take, name="take").on_failure(give_back, max_attempts=1)
    )


def waiting(shop: Shop, **options: Any) -> SagaResult:
    """A run that waits behind its first step."""
    pay = shop.app.tasks["shop.pay"]
    made = saga(shop, "waiting").wait_for("approved", 60)
    committed = made.local_step(pay, name="pay", read_only=True).commit()
    return committed.apply_async({"fail": []}, **options)  # type: ignore[no-any-return]


def stuck(shop: Shop) -> SagaResult:
    """A run that is stuck at its second step, and has a third one."""
    pay = shop.app.tasks["shop.pay"]
    made = saga(shop, "stuck").local_step(pay, name="pay", on_exhausted="pause")
    committed = made.local_step(pay, name="last", read_only=True).commit()
    return committed.delay(fail=["pay"])  # type: ignore[no-any-return]


def past_pivot(shop: Shop) -> SagaResult:
    """A run that is stuck behind its pivot."""
    take, pay = shop.app.tasks["shop.take"], shop.app.tasks["shop.pay"]
    made = Saga("pivot", app=shop.app).local_step(take, name="take", pivot=True)
    return made.local_step(pay, name="pay", max_attempts=1).commit().delay(fail=["pay"])  # type: ignore[no-any-return]


def passed(shop: Shop, result: SagaResult, seconds: float) -> SagaResult:
    shop.time += seconds
    runtime_of(shop.app).orchestrator.apply(result.id, Overdue(shop.time))
    return result


def asked(shop: Shop, result: SagaResult, verb: str, *args: Any) -> SagaResult:
    getattr(shop.manager, verb)(result.id, *args)
    return result


def corrected(shop: Shop, result: SagaResult, last_fails: bool = False) -> SagaResult:
    """An operator's skip of the step, after which the last one fails or not."""
    shop.fails = {"pay"} if last_fails else set()
    if not last_fails:
        return asked(shop, result, "retry", {"fail": []})
    return asked(shop, result, "skip")


PAID = ("builtins.RuntimeError", "pay is out of order", "pay")
LAST = ("builtins.RuntimeError", "pay is out of order", "last")
CANCELLED = ("Cancelled", "too late", "approved")
COMPENSATED = {"take": "COMPENSATED"}
NOT_COMPENSATED = {"take": "COMPENSATION_FAILED"}
SKIPPED = {"take": "SKIPPED"}

Row = tuple[Callable[[Shop], SagaResult], End]

ENDS: dict[str, Row] = {
    "it completes": (lambda s: s.started(), End(None)),
    "a step fails": (
        lambda s: s.started(fail=["pay"]),
        End(SagaCompensated, "at step 'pay': builtins.RuntimeError", PAID, COMPENSATED),
    ),
    "its compensation fails too": (
        lambda s: s.stuck(),
        End(SagaStuck, "at step 'take': its compensation failed", PAID, NOT_COMPENSATED),
    ),
    "that compensation is retried": (
        lambda s: asked(s, s.stuck(), "retry", {"fail": []}),
        End(SagaCompensated, "at step 'pay'", PAID, COMPENSATED),
    ),
    "that compensation is skipped": (
        lambda s: asked(s, s.stuck(), "skip"),
        End(SagaCompensated, "at step 'pay'", PAID, SKIPPED),
    ),
    "that saga is resolved as COMPENSATED": (
        lambda s: asked(s, s.stuck(), "resolve", "COMPENSATED"),
        End(SagaCompensated, "at step 'pay'", PAID, SKIPPED),
    ),
    "that saga is resolved as COMPLETED": (
        lambda s: asked(s, s.stuck(), "resolve", "COMPLETED"),
        End(None, rollback=NOT_COMPENSATED),
    ),
    "it is cancelled": (
        lambda s: asked(s, waiting(s), "cancel", "too late"),
        End(SagaCompensated, "Cancelled: too late", CANCELLED, COMPENSATED),
    ),
    "its signal does not come": (
        lambda s: passed(s, waiting(s), 61),
        End(
            SagaCompensated,
            "SignalTimeout",
            (
                "celery_saga.errors.SignalTimeout",
                "signal 'approved' was not sent within 60 s",
                "approved",
            ),
            COMPENSATED,
        ),
    ),
    "its deadline passes": (
        lambda s: passed(s, waiting(s, deadline=30), 31),
        End(
            SagaCompensated,
            "DeadlineExceeded",
            ("DeadlineExceeded", "the deadline passed before step 'approved' ended", "approved"),
            COMPENSATED,
        ),
    ),
    "a step is stuck": (stuck, End(SagaStuck, "is stuck at step 'pay'", PAID)),
    "that step is retried": (lambda s: corrected(s, stuck(s)), End(None)),
    "that step is skipped, and the last one fails": (
        lambda s: corrected(s, stuck(s), last_fails=True),
        End(SagaCompensated, "at step 'last'", LAST, {**COMPENSATED, "pay": "SKIPPED"}),
    ),
    "that saga is cancelled": (
        lambda s: asked(s, stuck(s), "cancel"),
        End(SagaCompensated, "at step 'pay'", PAID, COMPENSATED),
    ),
    "that saga, which is not rolled back, is resolved as COMPENSATED": (
        lambda s: asked(s, stuck(s), "resolve", "COMPENSATED"),
        End(SagaCompensated, "at step 'pay'", PAID, SKIPPED),
    ),
    "that saga, which is not rolled back, is resolved as COMPLETED": (
        lambda s: asked(s, stuck(s), "resolve", "COMPLETED"),
        End(None),
    ),
    "it is stuck behind its pivot": (past_pivot, End(SagaStuck, "at step 'pay'", PAID)),
    "a step behind its pivot is skipped": (lambda s: asked(s, past_pivot(s), "skip"), End(None)),
}


@pytest.mark.parametrize("how", ENDS)
def test_what_its_handle_says(shop: Shop, how: str) -> None:
    run, end = ENDS[how]
    result = run(shop)

    if end.error is None:
        assert result.get() == result.context
        assert (result.status, result.successful(), result.failed()) == ("COMPLETED", True, False)
    else:
        with pytest.raises(end.error) as caught:
            result.get()
        assert type(caught.value) is end.error
        assert end.text in str(caught.value)
        assert caught.value.exception is not None  # type: ignore[attr-defined]
        assert (result.ready(), result.failed()) == (True, True)
    failure = result.failure
    assert (failure and (failure.type, failure.message, failure.step)) == end.failure
    assert dict(result.rollback) == end.rollback
