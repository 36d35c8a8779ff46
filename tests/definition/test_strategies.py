"""Tasks with a Strategy of their own are not steps: their messages could not be followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.contrib.testing.worker import start_worker
from celery.worker import strategy

from celery_saga import Saga, SagaManager
from celery_saga.definition.builder import SAGAS
from celery_saga.definition.strategies import check_used
from celery_saga.errors import DefinitionError, SetupError

OWN = "tests.definition.test_strategies:runs_at_once"


def runs_at_once(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    raise AssertionError("nothing is consumed here")


class Fast(Task):
    Strategy = OWN


class Plain(Task):
    Strategy = strategy.default


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("strategies", broker="memory://", set_as_current=False)
    app.conf.saga_store_url = "memory://"
    SagaManager(app)
    yield app
    app.close()


def do() -> None: ...


KNOWN_AT_COMMIT: dict[str, Callable[[Celery], Any]] = {
    "its base": lambda app: app.task(name="own.base", base=Fast, shared=False)(do),
    "an option": lambda app: app.task(name="own.option", Strategy=OWN, shared=False)(do),
    "a shared task": lambda app: shared_task(name="own.shared", base=Fast)(do),
    "a class": lambda app: app.register_task(type("Own", (Fast,), {"name": "own.class"})()),
    "a function": lambda app: app.task(
        name="own.function", Strategy=staticmethod(runs_at_once), shared=False
    )(do),
}


@pytest.mark.parametrize("role", ["action", "compensation"])
@pytest.mark.parametrize("shape", KNOWN_AT_COMMIT)
def test_it_is_refused_at_commit(app: Celery, shape: str, role: str) -> None:
    own = KNOWN_AT_COMMIT[shape](app)
    other = app.task(name="own.other", shared=False)(do)
    saga = Saga("own", app=app)
    step = saga.local_step(own if role == "action" else other, name="a")
    step.on_failure(other if role == "action" else own)

    with pytest.raises(DefinitionError, match=r"step 'a': task .* has a strategy of its own"):
        saga.commit()


@pytest.mark.parametrize("how", ["by name", "the app's own class"])
def test_it_is_refused_when_the_plan_is_made(app: Celery, how: str) -> None:
    if how == "by name":
        app.task(name="own.named", base=Fast, shared=False)(do)
        saga = Saga("own", app=app)
        saga.local_step("own.named", name="a", inputs=[])
    else:
        app.task_cls = Fast
        saga = Saga("own", app=app)
        saga.local_step(app.task(name="own.plain", shared=False)(do), name="a")
    saga.commit()

    with pytest.raises(DefinitionError, match="step 'a': task 'own"):
        saga.delay()


def test_a_worker_whose_sagas_use_one_is_refused(app: Celery) -> None:
    app.task(name="own.at_start", base=Fast, shared=False)(do)
    saga = Saga("own at start", app=app)
    saga.local_step("own.at_start", inputs=[])
    saga.commit()

    with pytest.raises(SetupError, match=r"saga 'own at start': task 'own\.at_start'"):
        check_used(app, SAGAS)
    worker = start_worker(app, pool="solo", perform_ping_check=False)
    with pytest.raises(SetupError, match=r"own\.at_start"), worker:
        pass


def test_one_that_no_saga_uses_is_nobodys_business(app: Celery) -> None:
    app.task(name="own.unused", base=Fast, shared=False)(do)
    app.finalize()
    check_used(app, SAGAS)


def test_another_apps_saga_is_its_own_business(app: Celery) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    for each in (app, other):
        each.task(name="own.elsewhere", base=Fast, shared=False)(do)
    saga = Saga("own elsewhere", app=other)
    saga.local_step("own.elsewhere", inputs=[])
    saga.commit()
    app.finalize()
    check_used(app, SAGAS)


@pytest.mark.parametrize("base", [Task, Plain])
def test_celerys_own_is_welcome(app: Celery, base: type[Task]) -> None:
    task = app.task(name="own.none", base=base, shared=False)(do)
    assert Saga("welcome", app=app, steps=[task]).commit().delay().status == "RUNNING"
