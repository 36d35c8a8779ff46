"""The table of shapes on real workers: the same with the plugin and without, and as a step."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_saga import DefinitionError, Saga
from tests.worker.apps.shapes import Bound, Row, declare
from tests.worker.harness import Site

pytestmark = pytest.mark.worker

ROWS = [
    pytest.param(row, name, id=name)
    for name, row in declare(Celery("rows", set_as_current=False)).rows.items()
]
WAYS = {"without": 12, "with": 13}

#: What Celery's own way to call a task does not take; the hook does.
FAILS_WITHOUT = {"named_self": "multiple values for argument 'self'"}


@pytest.fixture(scope="module")
def shapes(valkey, journal, folder):
    """The tasks for clients of two workers of one process each, one of them with the plugin."""
    sites = {}
    found: dict[str, Bound] = {}
    for way, database in WAYS.items():
        site = sites[way] = Site(valkey.url(database), journal, folder)
        site.start("-c", "1", app="tests.worker.apps.shaped", env={"SAGA_TEST_SHAPES": way})
    try:
        for way, site in sites.items():
            site.workers[0].wait_until_ready()
            plain = Celery(way, broker=site.url, backend=site.url, set_as_current=False)
            found[way] = declare(site.app if way == "with" else plain)
        yield found
        found["without"].app.close()
    finally:
        for site in sites.values():
            site.close()


def recorded(shapes: Bound) -> tuple[str, ...]:
    """What the handlers were called with, in the worker's process, since it was last asked."""
    return tuple(shapes.app.send_task("shaped.record").get(timeout=30))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("row", "name"), ROWS)
def test_by_itself(shapes, way: str, row: Row, name: str) -> None:
    task = shapes[way].tasks[name]
    result = task.apply_async(row.args, dict(row.kwargs))
    if way == "without" and name in FAILS_WITHOUT:
        with pytest.raises(TypeError, match=FAILS_WITHOUT[name]):
            result.get(timeout=30)
    elif isinstance(row.expected, Exception):
        with pytest.raises(type(row.expected), match=f"^{row.expected}$"):
            result.get(timeout=30)
    else:
        assert result.get(timeout=30) == (None if task.ignore_result else row.expected)
    assert recorded(shapes[way]) == row.handled


@pytest.mark.parametrize(("row", "name"), ROWS)
def test_as_a_step(shapes, row: Row, name: str) -> None:
    here = shapes["with"]

    def start() -> Any:
        saga = Saga("shaped", app=here.app)
        saga.local_step(here.tasks[name], returns="result", **row.step)
        return saga.commit().delay(**row.kwargs)

    if row.refused:
        with pytest.raises(DefinitionError, match=row.refused):
            start()
        return
    result = start()
    result.get(timeout=30, propagate=False)
    failure = result.execution.steps[0].error
    if row.failed:
        assert result.status == "COMPENSATED"
        assert (failure.type, failure.message[: len(row.failed[1])]) == row.failed
    elif isinstance(row.expected, Exception):
        assert result.status == "COMPENSATED"
        kind = type(row.expected).__name__
        assert (failure.type.rpartition(".")[2], failure.message) == (kind, str(row.expected))
    else:
        assert result.status == "COMPLETED", result.execution.error
        assert result.context["result"] == row.expected
    assert recorded(here) == row.handled


def test_no_attribute_is_left_on_the_request(shapes) -> None:
    def seen(way: str) -> Any:
        return shapes[way].app.send_task("shaped.request").get(timeout=30)

    before, after = seen("with")
    assert before == after
    # Celery's own way to call a task leaves this one.
    assert [[*before, "_protected"], [*after, "_protected"]] == [
        sorted(names, key="_protected".__eq__) for names in seen("without")
    ]
