"""The hook by itself: which calls it lets pass, and what it does when it cannot be set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context

from celery_saga import AbortSaga, SagaManager, SetupError
from celery_saga.errors import SagaExecutionException
from celery_saga.hook import hooked, verify

STEP = {"id": "order-7~f0~1", "headers": {"saga": {"id": "order-7"}}, "called_directly": False}


@pytest.fixture
def app() -> Celery:
    app = Celery("hook", broker="memory://", set_as_current=False)
    SagaManager(app)
    return app


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(name="hook.task", bind=True, shared=False, max_retries=5)
    def task(self: Any, *args: Any) -> Any:
        return args

    return app.tasks["hook.task"]


@pytest.fixture
def delivered(task: Any) -> Any:
    """Pretend that a message with these attributes is being run."""

    def delivered(**attributes: Any) -> None:
        task.request_stack.push(Context(attributes))

    yield delivered
    while task.request_stack.top is not None:
        task.request_stack.pop()


def test_the_engines_own_tasks_are_passed_over(app: Celery) -> None:
    verify(app)
    start = app.tasks["celery_saga.start"]
    assert not hooked(type(start))
    assert (start.acks_late, start.reject_on_worker_lost, start.serializer) == (True, True, "json")


def test_users_annotations_are_for_the_engines_tasks_too() -> None:
    app = Celery("hook", broker="memory://", set_as_current=False)
    app.conf.task_annotations = {"celery_saga.start": {"queue": "starts"}}
    SagaManager(app)
    assert app.tasks["celery_saga.start"].queue == "starts"


class TestWhatPasses:
    @pytest.mark.parametrize(
        "request_",
        [
            {},
            {"id": "any", "headers": None},
            {"id": "any", "headers": {}},
            {"id": "any", "headers": {"saga": "not ours"}},
            {"id": "any", "headers": {"saga": {"id": "x"}}},
            {"id": None, "headers": {"saga": {"id": "x"}}},
        ],
    )
    def test_any_other_message(self, task, delivered, request_):
        delivered(called_directly=False, **request_)
        assert task(1, 2) == (1, 2)

    def test_a_call_without_any_message(self, task):
        assert task(1) == (1,)

    def test_a_direct_call_inside_a_step(self, task, delivered):
        delivered(**{**STEP, "called_directly": True})
        assert task(1) == (1,)

    def test_a_step_is_not_let_pass(self, app, task, delivered):
        """It asks for the store, of which this app has none."""
        app.conf.result_backend = "disabled://"
        delivered(**STEP)
        with pytest.raises(SetupError, match="saga_store_url"):
            task(1)

    def test_the_second_call_of_a_step_is_a_call_of_its_own_body(self, app, task, delivered):
        delivered(**STEP)
        task.request_stack.top._saga_seen = True
        assert task(1) == (1,)


class TestRetryAndReplace:
    def test_an_abort_in_a_step_is_not_retried(self, task, delivered):
        delivered(**STEP)
        abort = AbortSaga("no")
        with pytest.raises(AbortSaga) as caught:
            task.retry(exc=abort)
        assert caught.value is abort

    def test_an_abort_elsewhere_is_retried_like_any_error(self, task, delivered):
        delivered(id="any", called_directly=False, is_eager=True, retries=5)
        with pytest.raises(AbortSaga, match="no"):
            task.retry(exc=AbortSaga("no"), max_retries=0)

    def test_replace_is_refused_in_a_step(self, task, delivered):
        delivered(**STEP)
        with pytest.raises(SagaExecutionException, match=r"'hook.task': self.replace\(\) inside"):
            task.replace(task.s())


class TestVerify:
    def test_a_class_that_refuses_is_named_with_the_line_to_move(self):
        app = Celery("hook", broker="memory://", set_as_current=False)

        class Closed(type):
            def __setattr__(cls, name: str, value: Any) -> None:
                if name == "__call__":
                    raise AttributeError("closed")
                super().__setattr__(name, value)

        class Stubborn(Task, metaclass=Closed):
            name = "hook.stubborn"

            def run(self) -> None:
                pass

        app.register_task(Stubborn())

        with pytest.raises(SetupError, match=r"'hook.stubborn'.*SagaManager\(app\)"):
            SagaManager(app)

    def test_it_hooks_what_was_set_over_the_hook_and_nothing_twice(self, app, task):
        ours = type(task).__call__
        verify(app)
        assert type(task).__call__ is ours

        type(task).__call__ = lambda self, *args: ("theirs", *args)
        assert not hooked(type(task))
        verify(app)
        assert hooked(type(task))
        assert task(1) == ("theirs", 1)


def test_a_managers_app_must_be_an_app():
    with pytest.raises(SetupError, match="expected a Celery app, found a SimpleNamespace"):
        SagaManager(SimpleNamespace())
