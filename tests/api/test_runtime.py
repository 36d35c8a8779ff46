"""What all threads of a process share is made once, and anew in a forked child."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from celery import Celery, _state
from celery.exceptions import TimeoutError

from celery_saga import DefinitionError, Saga, SagaManager, SetupError, runtime
from celery_saga.aio import settled
from celery_saga.runtime import runtime_of
from celery_saga.stores.memory import MemoryStore
from celery_saga.testing.builders import create

# Python warns of forks of processes with threads, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _eager_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def new_app(name: str = "shop") -> Celery:
    app = Celery(name, broker="memory://", set_as_current=False)
    app.conf.update(saga_store_url="memory://", task_always_eager=True)
    return app


def test_threads_that_come_at_once_share_one_orchestrator() -> None:
    with ThreadPoolExecutor(16) as pool:
        for _ in range(60):
            app, barrier = new_app(), threading.Barrier(16)

            def ask(_: int, app: Celery = app, barrier: threading.Barrier = barrier) -> object:
                barrier.wait()
                SagaManager(app)
                return runtime_of(app).orchestrator

            assert len({id(found) for found in list(pool.map(ask, range(16)))}) == 1


def test_a_child_is_not_held_up_by_what_its_parents_threads_were_doing() -> None:
    app = new_app()
    SagaManager(app)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime._making:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        # If it hangs, the child ends with a signal.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os._exit(0 if runtime_of(app).orchestrator is not None else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_makes_an_orchestrator_of_its_own() -> None:
    app = new_app()
    SagaManager(app)
    mine = runtime_of(app).orchestrator
    child = os.fork()
    if child == 0:
        os._exit(0 if runtime_of(app).orchestrator is not mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert runtime_of(app).orchestrator is mine


def test_a_child_waits_for_sagas_in_threads_of_its_own() -> None:
    """Those of its parent do not exist in it."""
    store = MemoryStore()
    saga_id = create(store).saga_id

    def wait() -> bool:
        with suppress(TimeoutError):
            asyncio.run(settled(store, saga_id, 0.01))
            return False
        return True

    assert wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os._exit(0 if wait() else 1)
    assert os.waitpid(child, 0)[1] == 0


class TestTwoApps:
    """The saga's tasks are on one app, and managers on the other or on both."""

    def apps(self) -> tuple[Celery, Celery, Saga]:
        first, second = new_app("first"), new_app("second")

        @first.task(name="step", shared=False)
        def step() -> dict[str, str]:
            return {"ran_on": "first"}

        @second.task(name="step", shared=False)
        def other() -> dict[str, str]:
            return {"ran_on": "second"}

        return first, second, Saga("two", steps=[step]).commit()

    def test_a_manager_on_the_other_app_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, second, saga = self.apps()
        SagaManager(second)
        monkeypatch.setattr(runtime, "_apps", {second})
        with pytest.raises(
            SetupError, match=r"app 'first' has no saga manager .*SagaManager\("
        ) as e:
            saga.delay()
        assert "the app 'second' has one" in str(e.value)
        assert "Saga(..., app=app)" in str(e.value)

    def test_a_manager_on_both(self) -> None:
        first, second, saga = self.apps()
        managers = SagaManager(first), SagaManager(second)
        result = saga.delay()
        assert result.get(timeout=1) == {"ran_on": "first"}
        assert managers[0].get(result.id) == result
        with pytest.raises(LookupError):
            managers[1].get(result.id)

    def test_a_saga_that_names_its_app(self) -> None:
        first, second, _ = self.apps()
        SagaManager(first), SagaManager(second)
        for app in (first, second):
            saga = Saga("named", app=app)
            saga.local_step("step", inputs=[])
            assert saga.commit().delay().get(timeout=1) == {"ran_on": app.main}

    def test_a_saga_that_names_the_other_app_and_brings_tasks_of_the_first(self) -> None:
        first, second, _ = self.apps()
        SagaManager(first), SagaManager(second)

        @first.task(name="only.here", shared=False)
        def only_here() -> None:
            raise AssertionError("it ran")

        saga = Saga("wrong", steps=[only_here], app=second).commit()
        with pytest.raises(
            DefinitionError, match=r"'only\.here' is not registered on app 'second'"
        ):
            saga.delay()

    def test_tasks_of_both(self) -> None:
        first, second, _ = self.apps()
        SagaManager(first), SagaManager(second)
        saga = Saga("mixed", steps=[first.tasks["step"]])
        saga.local_step(second.tasks["step"], name="more")
        with pytest.raises(DefinitionError, match="belong to the apps 'first' and 'second'"):
            saga.commit().delay()


class TestThreadsWithoutACurrentApp:
    @pytest.fixture(autouse=True)
    def _no_default_app(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that another test has made in this process leaves its app as the default."""
        monkeypatch.setattr(_state, "default_app", None)

    def ask(self, saga: Saga) -> Celery:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: saga.app).result()

    def test_the_one_with_a_manager(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = new_app()
        SagaManager(app)
        monkeypatch.setattr(runtime, "_apps", {app})
        assert self.ask(Saga("free")) is app

    def test_of_several_none_is_guessed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        apps = {new_app("one"), new_app("two")}
        for app in apps:
            SagaManager(app)
        monkeypatch.setattr(runtime, "_apps", apps)
        saga = Saga("free", steps=["some.task"])
        assert self.ask(saga) not in apps
        with ThreadPoolExecutor(1) as pool, pytest.raises(SetupError, match="no saga manager"):
            pool.submit(saga.commit().delay).result()

    def test_the_current_app_goes_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = new_app()
        SagaManager(app)
        monkeypatch.setattr(runtime, "_apps", {app})
        current = Celery("current", set_as_current=False)

        def ask() -> Celery:
            current.set_current()
            return Saga("free").app

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask).result() is current
