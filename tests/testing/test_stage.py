"""What the kit puts in the place of an app's servers, and that the app gets them back."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from celery import Celery, group

from celery_saga import Saga, SagaManager, SagaStatus
from celery_saga.errors import SetupError
from celery_saga.testing import SagaKit, given
from tests.testing.test_scenarios import NOWHERE

pytestmark = pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks for a server."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"something connects: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


class Place:
    """An app whose step sends other tasks, and starts another saga."""

    def __init__(self, **settings: Any) -> None:
        self.app = app = Celery("stage", **NOWHERE, set_as_current=False)
        app.conf.update(settings)
        self.manager = SagaManager(app)
        self.seen: list[Any] = []

        @app.task(shared=False, name="mail")
        def mail(to: str) -> None:
            self.seen.append("mail is not sent by a test")

        @app.task(shared=False, name="inner")
        def inner(n: int) -> dict[str, int]:
            return {"m": n + 1}

        @app.task(shared=False, name="sends")
        def sends() -> dict[str, str]:
            mail.delay("ann")
            mail.apply_async(("bob",), countdown=60)
            child = self.child.apply_async({"n": 1}, saga_id="child")
            self.child.s(n=2).apply_async(task_id="message")
            return {"child": child.id}

        @app.task(shared=False, name="waits")
        def waits() -> None:
            mail.delay("ann").get(timeout=1)

        @app.task(shared=False, name="looks")
        def looks(child: str) -> dict[str, Any]:
            found = self.manager.get(child)
            return {"m": found.context["m"], "status": found.status}

        self.tasks = {each.name: each for each in (mail, inner, sends, waits, looks)}
        self.child = Saga("child", app=app)
        self.child.local_step(inner)
        self.child.commit()

    def saga(self, *names: str) -> Saga:
        found = Saga("parent", app=self.app)
        for name in names:
            found.local_step(self.tasks[name])
        return found.commit()


def test_nothing_connects_whatever_the_app_is_set_to() -> None:
    for settings in ({}, {"task_always_eager": True}, {"task_ignore_result": True}):
        given(Place(**settings).saga("sends")).expect_completed()


def test_other_tasks_are_kept_and_not_run() -> None:
    place = Place()
    run = given(place.saga("sends")).expect_completed()
    assert [repr(task) for task in run.sent] == ["mail('ann')", "mail('bob')"]
    assert run.sent[0].args == ("ann",)
    assert place.seen == []


def test_sagas_that_a_body_starts_are_run_too() -> None:
    place, kit = Place(), SagaKit()
    run = kit.given(place.saga("sends", "looks")).run()
    run.expect_completed(child="child", m=2, status="COMPLETED")


def test_a_body_may_not_wait_for_a_result() -> None:
    run = given(Place().saga("waits")).run()
    run.expect_failed("waits", RuntimeError)
    assert run.error is not None
    assert "Never call result.get() within a task" in run.error.message


def test_the_app_has_its_own_servers_again() -> None:
    place = Place(task_always_eager=True)
    app: Any = place.app
    backend, pool = app._backend_cache, app.amqp._producer_pool
    run = given(place.saga("sends")).expect_completed()
    assert (app._backend_cache, app.amqp._producer_pool) == (backend, pool)
    assert app.conf.task_always_eager
    app.conf.saga_store_url = "memory://"
    with pytest.raises(Exception, match=run.saga_id):
        place.manager.get(run.saga_id)
    assert place.child.delay(n=1).status is SagaStatus.COMPLETED


def test_it_has_them_again_after_an_error() -> None:
    place = Place(saga_store_url="memory://", task_always_eager=True)
    saga = Saga("missing", app=place.app)
    saga.local_step("nowhere.task", inputs=[])
    saga.commit()
    with pytest.raises(SetupError, match=r"its task 'nowhere.task' is not declared"):
        given(saga).run()
    assert place.child.delay(n=1).status is SagaStatus.COMPLETED


def test_callbacks_of_a_saga_are_sent() -> None:
    place = Place()
    saga = Saga("noted", app=place.app).on_completed(place.tasks["mail"].s())
    saga.local_step(place.tasks["inner"])
    run = given(saga.commit()).context(n=1).expect_completed()
    assert [task.name for task in run.sent] == ["mail"]


def test_each_scenario_has_its_own_sagas_and_a_kit_shares_them() -> None:
    place = Place()
    for _ in range(2):
        given(place.child).context(n=1).options(saga_id="one").expect_completed(m=2)
    kit = SagaKit()
    kit.given(place.child).context(n=1).options(saga_id="one").expect_completed(m=2)
    with pytest.raises(Exception, match="one"):
        kit.given(place.child).context(n=5).options(saga_id="one").run()


def test_an_app_without_a_manager() -> None:
    app = Celery("bare", **NOWHERE, set_as_current=False)

    @app.task(shared=False)
    def step() -> None:
        pass

    saga = Saga("bare", app=app)
    saga.local_step(step)
    with pytest.raises(SetupError, match=r"add 'sagas = SagaManager\(app\)'"):
        given(saga.commit())


def test_it_is_refused_where_a_worker_runs() -> None:
    place = Place()
    kit = SagaKit()
    scenario = kit.given(place.child).context(n=1)

    class Running:
        def submit(self, *args: Any) -> bool:
            return False

        def stop(self) -> None:
            pass

        stop_when_idle = stop

    place.manager._runtime.heartbeat = Running()
    with pytest.raises(SetupError, match="a worker of the Celery app 'stage' runs in this process"):
        scenario.run()


def test_a_group_in_a_body_is_kept_as_its_tasks() -> None:
    place = Place()

    @place.app.task(shared=False, name="sends_a_group")
    def sends_a_group() -> None:
        group(place.tasks["mail"].s(name) for name in ("ann", "bob")).apply_async()

    saga = Saga("groups", app=place.app)
    saga.local_step(sends_a_group)
    run = given(saga.commit()).expect_completed()
    assert [task.args for task in run.sent] == [("ann",), ("bob",)]
