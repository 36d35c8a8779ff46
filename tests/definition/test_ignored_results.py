"""The result of a task with ``ignore_result=True`` is left out, unless the step says otherwise."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from celery import Task, shared_task

from celery_saga import DefinitionWarning, LocalSagaStep, Saga, SagaContext, saga_step
from tests.definition.building import call_of, new_app

app = new_app("ignored")


class Base(Task):  # type: ignore[type-arg]
    ignore_result = True


@app.task(name="ignored.note", ignore_result=True, shared=False)
def note() -> Any:
    return {"key": object()}


@app.task(name="ignored.based", base=Base, shared=False)
def based() -> None: ...


@app.task(name="ignored.usual", shared=False)
def usual() -> None: ...


@app.task(name="ignored.context", ignore_result=True, shared=False)
def in_context(context: SagaContext) -> None: ...


@shared_task(name="ignored.shared", ignore_result=True)
def shared() -> None: ...


@saga_step(returns="kept")
@app.task(name="ignored.paired", ignore_result=True, shared=False)
def paired() -> None: ...


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        (note, {}, False),
        (based, {}, False),
        (shared, {}, False),
        ("ignored.note", {}, False),
        (usual, {}, None),
        (usual, {"returns": False}, False),
        (note, {"returns": "key"}, "key"),
        (note, {"returns": False}, False),
        (paired, {}, "kept"),
        (in_context, {}, None),
        ("somewhere.else", {"inputs": []}, None),
    ],
)
def test_it_is_dropped(task: Any, options: dict[str, Any], expected: Any) -> None:
    assert call_of(Saga("s", steps=[LocalSagaStep(task, **options)], app=app)).returns is expected


@pytest.mark.parametrize("ignore", [None, False, True])
def test_the_setting_for_all_tasks_says_nothing_of_one(ignore: bool | None) -> None:
    other = new_app("all ignored", task_ignore_result=True)

    @other.task(name="ignored.other", ignore_result=ignore, shared=False)
    def task() -> None: ...

    assert call_of(Saga("s", steps=[task], app=other)).returns is None


def test_nothing_is_lost_that_no_one_keeps() -> None:
    """The warning is about a compensation that needs what its step returns under its own name."""
    other = new_app("lost")

    @other.task(name="ignored.compensation", shared=False)
    def compensation(make: Any) -> None: ...

    def warned(**options: Any) -> list[str]:
        @other.task(name=f"ignored.make.{len(options)}", shared=False, **options)
        def make() -> int:
            return 1

        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            Saga("s", steps=[LocalSagaStep(make, compensation, name="make")], app=other).commit()
        return [str(each.message) for each in found if each.category is DefinitionWarning]

    assert len(warned()) == 1
    assert warned(ignore_result=True) == []
