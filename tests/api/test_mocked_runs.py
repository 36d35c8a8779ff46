"""``mock.patch.object(task, "run")`` in eager tests: how a test sets a task's failure or result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from celery import Celery, Task, _state, shared_task
from celery.result import _set_task_join_will_block

from celery_saga import Saga, SagaContext, SagaManager


class Shop:
    """A saga of two steps in a process, the second one a task of some kind."""

    def __init__(self, kind: Callable[[Celery], Any]) -> None:
        self.app = Celery("mocked", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=True, saga_store_url="memory://")
        SagaManager(self.app)
        self.done: list[Any] = []

        @self.app.task(shared=False)
        def reserve(order_id: int) -> str:
            self.done.append(("reserved", order_id))
            return f"r-{order_id}"

        @self.app.task(shared=False)
        def release(reserve: str = "?", reason: str = "none") -> None:
            self.done.append(("released", reserve, reason))

        self.reserve, self.release, self.charge = reserve, release, kind(self.app)
        self.saga = self.new()

    def new(self) -> Saga:
        saga = Saga(app=self.app)
        saga.local_step(self.reserve).on_failure(self.release)
        saga.local_step(self.charge, returns="paid", read_only=True)
        return saga.commit()


def charged(order_id: int, total: float = 1.5) -> str:
    return f"{order_id} for {total}"


def bound(self: Any, order_id: int, total: float = 1.5) -> str:
    return charged(order_id, total)


def of_a_class(app: Celery) -> Any:
    class Charge(Task):  # type: ignore[type-arg]
        name = "mocked.charge"

        def run(self, order_id: int, total: float = 1.5) -> str:
            return charged(order_id, total)

    return app.register_task(Charge())


KINDS: dict[str, Callable[[Celery], Any]] = {
    "app.task": lambda app: app.task(shared=False)(charged),
    "shared_task": lambda app: shared_task(name="mocked.shared")(charged),
    "bound": lambda app: app.task(bind=True, shared=False)(bound),
    "retried": lambda app: app.task(autoretry_for=(KeyError,), shared=False)(charged),
    "of a class": of_a_class,
}


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    found = Shop(KINDS[request.param])
    monkeypatch.setattr(_state._tls, "current_app", found.app)  # whose shared tasks are patched
    yield found
    _set_task_join_will_block(False)


@pytest.fixture(params=["first", "ran before", "made under the mock"])
def when(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(shop: Shop, when: str) -> Callable[..., Any]:
    """Starts the saga; whatever ran before in the process."""
    if when == "ran before":
        assert shop.saga.delay(order_id=6).context["paid"] == "6 for 1.5"
        shop.done.clear()

    def start(**context: Any) -> Any:
        saga = shop.new() if when == "made under the mock" else shop.saga
        return saga.delay(**context)

    return start


class TestAStep:
    def test_gets_its_arguments(self, shop: Shop, start: Callable[..., Any]) -> None:
        with mock.patch.object(shop.charge, "run", return_value="mocked") as run:
            result = start(order_id=7, total=2.5, other="x")
        run.assert_called_once_with(order_id=7, total=2.5)
        assert result.status == "COMPLETED"
        assert result.context["paid"] == "mocked"

    def test_leaves_parameters_to_their_defaults(
        self, shop: Shop, start: Callable[..., Any]
    ) -> None:
        with mock.patch.object(shop.charge, "run", return_value="mocked") as run:
            start(order_id=7)
        run.assert_called_once_with(order_id=7)

    def test_fails_as_the_mock_does(self, shop: Shop, start: Callable[..., Any]) -> None:
        with mock.patch.object(shop.charge, "run", side_effect=RuntimeError("declined")):
            result = start(order_id=7)
        assert result.status == "COMPENSATED"
        error = result.execution.steps[1].error
        assert (error.type, error.message) == ("builtins.RuntimeError", "declined")
        assert shop.done == [("reserved", 7), ("released", "r-7", "none")]

    def test_runs_again_when_the_mock_is_removed(
        self, shop: Shop, start: Callable[..., Any]
    ) -> None:
        with mock.patch.object(shop.charge, "run", side_effect=RuntimeError("declined")):
            start(order_id=7)
        assert start(order_id=8).context["paid"] == "8 for 1.5"

    def test_may_be_mocked_with_its_signature(self, shop: Shop, start: Callable[..., Any]) -> None:
        with mock.patch.object(shop.charge, "run", autospec=True, return_value="mocked") as run:
            assert start(order_id=7).context["paid"] == "mocked"
        run.assert_called_once_with(order_id=7)


class TestTheClassOfAStep:
    """A mock in the place of the ``run`` of its class."""

    def test_gets_its_arguments(self, shop: Shop, start: Callable[..., Any]) -> None:
        with mock.patch.object(shop.charge.__class__, "run", return_value="mocked") as run:
            result = start(order_id=7, total=2.5, other="x")
            if hasattr(shop.charge, "_orig_run"):
                return  # what autoretry runs was taken from the class before
        run.assert_called_once_with(order_id=7, total=2.5)
        assert result.context["paid"] == "mocked"
        assert start(order_id=8).context["paid"] == "8 for 1.5"


@pytest.mark.parametrize("shop", ["app.task"], indirect=True)
class TestACompensation:
    def test_gets_its_arguments(self, shop: Shop, start: Callable[..., Any]) -> None:
        with (
            mock.patch.object(shop.charge, "run", side_effect=RuntimeError("declined")),
            mock.patch.object(shop.release, "run", return_value=None) as release,
        ):
            result = start(order_id=7, reason="test")
        release.assert_called_once_with(reserve="r-7", reason="test")
        assert result.status == "COMPENSATED"


def test_in_context_style() -> None:
    shop = Shop(KINDS["app.task"])

    @shop.app.task(shared=False)
    def note(context: SagaContext) -> None: ...

    saga = Saga(app=shop.app, steps=[note]).commit()
    with mock.patch.object(note, "run", return_value=None) as run:
        assert saga.delay(order_id=7).status == "COMPLETED"
    run.assert_called_once_with(SagaContext(order_id=7))


def test_the_run_that_a_constructor_gives() -> None:
    """There the class knows none."""
    shop = Shop(KINDS["app.task"])

    class Adapter(Task):  # type: ignore[type-arg]
        name = "mocked.adapter"

        def __init__(self) -> None:
            self.run = charged  # type: ignore[method-assign]

    saga = Saga(app=shop.app)
    saga.local_step(shop.app.register_task(Adapter()), returns="paid")
    assert saga.commit().delay(order_id=7).context["paid"] == "7 for 1.5"
