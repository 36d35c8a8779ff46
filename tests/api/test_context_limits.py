"""Contexts that are too large: found when a list multiplies, and named by branch and item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_saga import LocalSagaStep, Saga, SagaManager
from celery_saga.stores.memory import MemoryStore

app = Celery("limits", broker="memory://", set_as_current=False)
app.conf.update(task_always_eager=True, task_acks_late=True, saga_context_limit=1000)
SagaManager(app, storage=MemoryStore())

ran: list[str] = []


@app.task(name="limits.large", shared=False)
def large(size: int) -> str:
    ran.append("large")
    return "x" * size


@app.task(name="limits.small", shared=False)
def small(item: Any = None) -> int:
    ran.append("small")
    return 1


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


Row = tuple[Callable[[Any], Any], dict[str, Any], list[str]]

#: What a saga has inside and begins with -> what its error names.
TOO_LARGE: dict[str, Row] = {
    "a step": (
        lambda saga: saga.local_step(large, returns="text"),
        {"size": 2000},
        ["'text' (2002)"],
    ),
    "a branch": (
        lambda saga: saga.parallel_step(small, LocalSagaStep(large, returns="text")),
        {"size": 2000},
        ["'text' of 'large' (2002)"],
    ),
    "an item": (
        lambda saga: saga.for_each("sizes", LocalSagaStep(large, name="pack"), as_="size"),
        {"sizes": [1, 2000]},
        ["'pack' of 'pack[1]' (2002)"],
    ),
    "an item of an item": (
        lambda saga: saga.for_each(
            "rows",
            Saga("row", app=app)
            .for_each(
                ("row",), LocalSagaStep(large, name="pack", inputs={"size": "size"}), as_="size"
            )
            .commit(),
            as_="row",
        ),
        {"rows": [[1], [2, 2000]]},
        ["'pack' of 'row.pack[1][1]' (2002)"],
    ),
    "a nested saga": (
        lambda saga: saga.nested_step(
            Saga("order", app=app, steps=[LocalSagaStep(large, name="large")]).commit(),
            inputs=["size"],
        ),
        {"size": 2000},
        ["'large' of 'order' (2002)"],
    ),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_the_error_names_what_is_large_and_where(what: str) -> None:
    build, context, parts = TOO_LARGE[what]
    saga = Saga(f"too large: {what}", app=app)
    build(saga)
    result = saga.commit().delay(**context)

    failure = result.failure
    assert failure is not None
    assert failure.type == "celery_saga.errors.ContextTooLarge"
    assert "saga_context_limit allows 1000" in failure.message
    assert "\x1f" not in failure.message
    assert "x1f" not in failure.message
    for part in parts:
        assert part in failure.message, failure.message


@pytest.mark.parametrize("parallel", [True, False], ids=["together", "in turn"])
def test_a_list_that_multiplies_fails_before_its_first_item(parallel: bool) -> None:
    saga = Saga(f"multiplies {parallel}", app=app)
    saga.for_each("items", small, name="lines", parallel=parallel).commit()
    result = saga.delay(items=["x" * 290, "y" * 300])

    assert (result.status, ran) == ("COMPENSATED", [])
    assert result.failure is not None
    assert (result.failure.type, result.failure.step) == (
        "celery_saga.errors.ContextTooLarge",
        "lines",
    )
    assert "'item' of 'small[1]' (302), 'item' of 'small[0]' (292)" in result.failure.message


def test_a_list_that_fits_is_run() -> None:
    saga = Saga("fits", app=app).for_each("items", small, returns="ones").commit()
    assert saga.delay(items=["x" * 200, "y" * 200]).get()["ones"] == [1, 1]
