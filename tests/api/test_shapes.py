"""Tasks in all shapes: the same by themselves, with the plugin and without it, and as a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
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
    if row.failed:
        assert result.status == "COMPENSATED"
        failure = result.execution.steps[0].error
        assert (failure.type, failure.message[: len(row.failed[1])]) == row.failed
    elif isinstance(row.expected, Exception):
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


NO_MAPPINGS = [123, "text", [("a", "b")], ("a",), object()]
NAMES = ["a number", "a text", "pairs", "a tuple", "an object"]


class TestHeadersThatAreNoMapping:
    @pytest.mark.parametrize("given", NO_MAPPINGS, ids=NAMES)
    def test_change_nothing(self, given: Any) -> None:
        """Celery's own retries fail of them, and so they do under the hook."""

        def ends(shapes: Bound) -> dict[str, Any]:
            found = {}
            for name, row in shapes.rows.items():
                handled.clear()
                result = shapes.tasks[name].apply(row.args, dict(row.kwargs), headers=given)
                found[name] = (result.state, repr(result.result), tuple(handled))
            return found

        without = ends(PLAIN)
        assert ends(HOOKED) == without
        assert without["named_task"] == ("SUCCESS", "'t'", ())

    @pytest.mark.parametrize("given", NO_MAPPINGS, ids=NAMES)
    def test_nor_does_the_retry_of_a_step_that_has_them(self, given: Any) -> None:
        shapes = new(True, task_always_eager=True)

        class RetryWithOddHeaders(Task):  # type: ignore[type-arg]
            def retry(self, *args: Any, **options: Any) -> Any:
                return super().retry(*args, **{**options, "countdown": 0, "headers": given})

        again_if: dict[str, Any] = {"autoretry_for": (KeyError,), "bind": True, "shared": False}

        @shapes.app.task(base=RetryWithOddHeaders, **again_if)
        def again(self: Any) -> int:
            if not self.request.retries:
                raise KeyError("not yet")
            return int(self.request.retries)

        result = Saga(app=shapes.app, steps=[again]).commit().delay()
        assert result.status == "COMPLETED", result.execution.error
        assert result.context["again"] == 1


def test_no_attribute_is_left_on_the_request() -> None:
    """Neither while a task runs, with what it calls on the spot, nor afterwards."""

    def seen(shapes: Bound, as_step: bool) -> Any:
        kept: list[Any] = []

        @shapes.app.task(bind=True, shared=False)
        def inner(self: Any) -> None:
            kept.append(self.request)

        @shapes.app.task(bind=True, shared=False)
        def outer(self: Any) -> None:
            kept.append(self.request)
            kept.append(sorted(vars(self.request)))
            inner()
            inner.apply()
            kept.append(sorted(vars(self.request)))

        if as_step:
            Saga(app=shapes.app, steps=[outer]).commit().delay()
        else:
            outer.apply()
        return [one if isinstance(one, list) else sorted(vars(one)) for one in kept]

    without = seen(PLAIN, as_step=False)
    assert len(without) == 5
    assert seen(HOOKED, as_step=False) == without
    assert seen(EAGER, as_step=True) == without
