"""Tasks in all shapes: the same by themselves, with the plugin and without it, and as a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.result import _set_task_join_will_block

from celery_saga import DefinitionError, Saga, SagaManager
from tests.worker.apps.shapes import Bound, Row, declare, handled


def new(plugin: bool, **settings: Any) -> Bound:
    app = Celery("shapes", broker="memory://", set_as_current=False)
    if plugin:
        SagaManager(app)
    app.conf.update(saga_store_url="memory://", **settings)
    found = declare(app)
    app.finalize()
    return found


PLAIN, HOOKED, EAGER = new(False), new(True), new(True, task_always_eager=True)
ROWS = [pytest.param(row, name, id=name) for name, row in PLAIN.rows.items()]


@pytest.fixture(autouse=True)
def notes() -> Iterator[list[str]]:
    handled.clear()
    yield handled
    _set_task_join_will_block(False)


def outcome(row: Row, call: Any) -> Any:
    """The result of a call; an expected exception is one as well."""
    wanted = type(row.expected) if isinstance(row.expected, Exception) else ()
    try:
        return call()
    except wanted as error:
        return error


def expect(row: Row, found: Any) -> None:
    if isinstance(row.expected, Exception):
        assert (type(found), str(found)) == (type(row.expected), str(row.expected))
    else:
        assert found == row.expected
    assert tuple(handled) == row.handled


@pytest.mark.parametrize("shapes", [PLAIN, HOOKED], ids=["plain", "hooked"])
@pytest.mark.parametrize(("row", "name"), ROWS)
def test_by_itself(shapes: Bound, row: Row, name: str) -> None:
    result = shapes.tasks[name].apply(row.args, dict(row.kwargs))
    expect(row, outcome(row, result.get))


@pytest.mark.parametrize(("row", "name"), ROWS)
def test_as_a_step(row: Row, name: str) -> None:
    def saga() -> Any:
        found = Saga(app=EAGER.app)
        found.local_step(EAGER.tasks[name], returns="result", **row.step)
        return found.commit().delay

    if row.refused:
        with pytest.raises(DefinitionError, match=row.refused):
            saga()()
        return
    result = saga()(**row.kwargs)
    if isinstance(row.expected, Exception):
        assert result.status == "COMPENSATED"
        failure = result.execution.steps[0].error
        assert (failure.type.rpartition(".")[2], failure.message) == (
            type(row.expected).__name__,
            str(row.expected),
        )
        assert tuple(handled) == row.handled
    else:
        assert result.status == "COMPLETED", result.execution.error
        expect(row, result.context["result"])
