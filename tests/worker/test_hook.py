"""The hook by itself: which calls it lets pass, and what it does when it cannot be set."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context
from celery.exceptions import Reject, Retry

from celery_saga import AbortSaga, SagaManager, SetupError
from celery_saga.errors import SagaExecutionException
from celery_saga.worker import hook as hook_module
from celery_saga.worker.hook import hooked, verify

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
def delivered(request: Any) -> Any:
    """Pretend that a message with these attributes is being run."""
    stacks: list[Any] = []

    def delivered(task: Any = None, /, **attributes: Any) -> None:
        stack = (task or request.getfixturevalue("task")).request_stack
        stack.push(Context(attributes))
        stacks.append(stack)

    yield delivered
    for stack in stacks:
        stack.pop()


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

    def test_headers_that_are_no_mapping_change_nothing(self, task, delivered):
        delivered(id="any", called_directly=False, headers=123)
        assert task(1) == (1,)

    def test_an_id_like_a_steps_on_an_app_without_a_store(self, app, task, delivered):
        app.conf.result_backend = "disabled://"
        delivered(id="x~f1~1", called_directly=False)
        assert task(1) == (1,)


class TestTheRequest:
    def test_nothing_is_left_on_it(self, app, delivered):
        seen: list[dict[str, Any]] = []

        @app.task(name="hook.looks", bind=True, shared=False)
        def looks(self: Any) -> None:
            seen.append(dict(vars(self.request)))

        request = Context(id="any", called_directly=False)
        before = dict(vars(request))
        task = app.tasks["hook.looks"]
        task.request_stack.push(request)
        try:
            task()
        finally:
            task.request_stack.pop()
        assert seen == [before]
        assert vars(request) == before

    def test_tasks_that_call_each_other_see_the_same_requests_as_without_the_hook(self, app):
        def calls(app: Celery) -> list[tuple[str, bool, Any]]:
            seen: list[tuple[str, bool, Any]] = []

            @app.task(name="hook.inner", bind=True, shared=False)
            def inner(self: Any, n: int) -> None:
                seen.append((f"inner {n}", self.request.called_directly, self.request.id))
                if n:
                    app.tasks["hook.outer"](n - 1)

            @app.task(name="hook.outer", bind=True, shared=False)
            def outer(self: Any, n: int) -> None:
                seen.append((f"outer {n}", self.request.called_directly, self.request.id))
                if n:
                    app.tasks["hook.inner"].apply((n,), task_id=f"inner {n}")

            app.tasks["hook.outer"].apply((2,), task_id="outer 2")
            return seen

        plain = calls(Celery("plain", broker="memory://", set_as_current=False))
        assert len(plain) == 5
        assert calls(app) == plain

    def test_threads_that_run_the_same_task_do_not_take_each_other_for_recursion(self, app):
        together = threading.Barrier(2)
        seen: list[bool] = []

        @app.task(name="hook.together", bind=True, shared=False)
        def body(self: Any) -> None:
            together.wait(10)
            seen.append(self.request.called_directly)

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(app.tasks["hook.together"].apply) for _ in range(2)]:
                done.result(20)

        assert seen == [False, False]

    @pytest.mark.parametrize("error", [ValueError, SystemExit])
    def test_a_body_that_raises_leaves_nothing_behind(self, app, delivered, error):
        @app.task(name="hook.raises", shared=False)
        def raises() -> None:
            raise error

        task = app.tasks["hook.raises"]
        task.request_stack.push(Context(id="any", called_directly=False))
        try:
            with pytest.raises(error):
                task()
        finally:
            task.request_stack.pop()
        assert hook_module._running == {}


class ByError(Task):
    """A project's own retry, which has not Celery's parameters."""

    def retry(self, exc: Any = None, **options: Any) -> Any:
        return super().retry(exc=exc, **options)


class Narrow(Task):
    def retry(self, exc: Any = None) -> Any:
        return super().retry(exc=exc, countdown=7)


@pytest.mark.parametrize("base", [Task, ByError, Narrow])
class TestRetry:
    @pytest.fixture
    def task(self, app: Celery, base: Any) -> Any:
        @app.task(name="hook.task", base=base, bind=True, shared=False, default_retry_delay=7)
        def task(self: Any, *args: Any, **kwargs: Any) -> Any:
            return args

        return app.tasks["hook.task"]

    def test_an_abort_in_a_step_is_not_retried(self, task, delivered):
        delivered(**STEP)
        abort = AbortSaga("no")
        with pytest.raises(AbortSaga) as caught:
            task.retry(exc=abort)
        assert caught.value is abort

    def test_its_message_has_the_header_and_shows_what_the_steps_own_shows(
        self, task, delivered, monkeypatch
    ):
        sent: list[dict[str, Any]] = []
        monkeypatch.setattr(task, "apply_async", lambda *args, **options: sent.append(options))
        delivered(**STEP, argsrepr="()", kwargsrepr="{'saga_id': 'order-7'}")

        with pytest.raises(Retry) as caught:
            task.retry(exc=KeyError("not now"))

        assert caught.value.when == 7
        assert sent[0]["headers"]["saga"] == {"id": "order-7"}
        assert (sent[0]["argsrepr"], sent[0]["kwargsrepr"]) == ("()", "{'saga_id': 'order-7'}")

    def test_one_that_the_broker_does_not_take_is_a_retry(self, task, delivered, monkeypatch):
        def unavailable(*args: Any, **options: Any) -> None:
            raise ConnectionError("the broker is unavailable")

        monkeypatch.setattr(task, "apply_async", unavailable)
        delivered(**STEP)
        error = KeyError("not now")

        with pytest.raises(Retry) as caught:
            task.retry(exc=error)

        assert (caught.value.exc, caught.value.when) == (error, 7)
        assert caught.value.sig.options["retries"] == 1

    def test_elsewhere_it_is_dropped_as_before(self, task, delivered, monkeypatch):
        def unavailable(*args: Any, **options: Any) -> None:
            raise ConnectionError("the broker is unavailable")

        monkeypatch.setattr(task, "apply_async", unavailable)
        delivered(id="any", called_directly=False, delivery_info={})
        with pytest.raises(Reject):
            task.retry(exc=KeyError("not now"))


class TestRetryAndReplace:
    def test_a_step_that_rejects_itself_in_its_own_retry_is_rejected(self, app, delivered):
        class Rejecting(Task):
            def retry(self, **options: Any) -> Any:
                raise Reject("no more", requeue=False)

        @app.task(name="hook.task", base=Rejecting, shared=False)
        def task() -> None: ...

        app.finalize()
        delivered(app.tasks["hook.task"], **STEP)
        with pytest.raises(Reject, match="no more"):
            app.tasks["hook.task"].retry()

    def test_headers_of_a_retry_stand_beside_the_sagas(self, task, delivered):
        delivered(**STEP)
        message = task.signature_from_request(headers={"trace": "t"})
        assert message.options["headers"] == {"trace": "t", "saga": {"id": "order-7"}}

    def test_a_signature_of_another_task_id_is_not_a_retry(self, task, delivered):
        delivered(**STEP, kwargsrepr="{}")
        message = task.signature_from_request(task_id="other", headers={"trace": "t"})
        assert message.options["headers"] == {"trace": "t"}
        assert "kwargsrepr" not in message.options

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

    @pytest.mark.parametrize("method", ["retry", "replace", "signature_from_request"])
    @pytest.mark.parametrize("annotated", ["hook.late", "*"])
    def test_methods_that_an_annotation_sets_are_hooked_as_well(self, method, annotated):
        app = Celery("hook", broker="memory://", set_as_current=False)
        SagaManager(app)
        theirs = {method: lambda self, *args, **options: ("theirs", args, options)}
        app.conf.task_annotations = {annotated: theirs}

        @app.task(name="hook.late", shared=False)
        def late() -> None: ...

        app.finalize()
        found = getattr(app.tasks["hook.late"], method)

        assert getattr(found, hook_module._MARK)
        assert found(1, b=2) == ("theirs", (1,), {"b": 2})

    def test_a_class_of_a_hooked_one_that_has_a_retry_of_its_own(self, app, delivered):
        class Base(Task):
            name = "hook.base"

            def run(self) -> None: ...

        class Own(Base):
            name = "hook.own"

            def retry(self, exc: Any = None) -> Any:
                return ("own", exc)

        app.register_task(Base())
        own = app.register_task(Own())
        verify(app)  # Celery takes the class of a bound one for bound
        delivered(own, **STEP)

        assert own.retry(KeyError) == ("own", KeyError)
        with pytest.raises(AbortSaga):
            own.retry(AbortSaga("no"))


def test_a_managers_app_must_be_an_app():
    with pytest.raises(SetupError, match="expected a Celery app, found a SimpleNamespace"):
        SagaManager(SimpleNamespace())
