"""What the message that starts a saga has among its headers, all messages of the saga have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery.app.task import Context

from celery_saga import Saga, SagaManager
from celery_saga.core.events import MessageState, Overdue, StepFailed, StepSucceeded
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, StepRef
from celery_saga.definition.builder import SAGAS
from celery_saga.runtime import runtime_of


class Sent(list):
    """The headers of all messages as they leave, and how often receivers were asked."""

    def of(self, ref: str) -> dict[str, Any]:
        """Those of the newest message of a ref, such as ``"f0"``."""
        return next(it for it in reversed(self) if f"~{ref}~" in it["id"])


@pytest.fixture
def app() -> Celery:
    app = Celery("headers", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(saga_store_url="memory://")
    SagaManager(app)
    return app


@pytest.fixture
def sent(app: Celery) -> Sent:
    found = Sent()
    original = app.amqp.send_task_message

    def hear(producer: Any, name: str, message: Any, **options: Any) -> Any:
        publish = producer.publish

        def heard(body: Any, **more: Any) -> Any:
            found.append(dict(more["headers"]))
            return publish(body, **more)

        producer.publish = heard
        try:
            return original(producer, name, message, **options)
        finally:
            del producer.publish

    app.amqp.send_task_message = hear
    return found


@pytest.fixture
def receiving() -> Iterator[Any]:
    """Connects a receiver of ``before_task_publish`` until the test lets it go."""
    connected: list[Any] = []

    def connect(receiver: Any) -> Any:
        def receive(headers: dict[str, Any], **kwargs: Any) -> None:
            receiver(headers)

        connected.append(receive)
        signals.before_task_publish.connect(receive, weak=False)

        def disconnect() -> None:
            signals.before_task_publish.disconnect(receive)

        return disconnect

    yield connect
    for each in connected:
        signals.before_task_publish.disconnect(each)


def saga_of(app: Celery, base: Any = Task, name: str = "carried") -> Saga:
    declare: Any = app.task

    @declare(name="headers.charge", shared=False, base=base)
    def charge() -> None: ...

    @declare(name="headers.refund", shared=False)
    def refund() -> None: ...

    @declare(name="headers.ship", shared=False)
    def ship() -> None: ...

    saga = Saga(name, app=app)
    saga.local_step(charge, name="charge").on_failure(refund)
    saga.local_step(ship, name="ship")
    return saga.commit()


def run_back(app: Celery, saga_id: str) -> SagaExecution:
    """Run the saga into its rollback: one step succeeds, one fails, a compensation begins."""
    orchestrator = runtime_of(app).orchestrator
    for index, event in ((0, StepSucceeded), (1, StepFailed)):
        ref, at = StepRef((index,), Direction.FORWARD, 1), orchestrator.store.now()
        orchestrator.claim(saga_id, ref, Claim(f"t{index}", "here"))
        more: Any = (f"t{index}",) if event is StepSucceeded else (Failure("Error", "no"),)
        token: Any = {} if event is StepSucceeded else {"token": "t1"}
        orchestrator.apply(saga_id, event(at, ref, *more, **token))
    return orchestrator.load(saga_id)


class SetsHeaders(Task):
    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        headers = {"tenant": "acme", **(options.pop("headers", None) or {})}
        return super().apply_async(args, kwargs, headers=headers, **options)


class TestWhereTheyComeFrom:
    def check(self, app: Celery, sent: Sent, saga_id: str, **expected: Any) -> None:
        run_back(app, saga_id)
        for ref in ("f0", "f1", "c0"):
            headers = sent.of(ref)
            assert {name: headers.get(name) for name in expected} == expected, ref
            assert headers["saga"]

    def test_a_receiver_where_the_saga_is_started(self, app, sent, receiving):
        disconnect = receiving(lambda headers: headers.setdefault("tenant", "acme"))
        result = saga_of(app).delay()
        disconnect()
        self.check(app, sent, result.id, tenant="acme")

    def test_what_it_was_is_there_before_a_receiver_elsewhere_looks(self, app, sent, receiving):
        disconnect = receiving(lambda headers: headers.setdefault("tenant", "acme"))
        result = saga_of(app).delay()
        disconnect()
        receiving(lambda headers: headers.setdefault("tenant", None))
        self.check(app, sent, result.id, tenant="acme")

    def test_a_task_class(self, app, sent):
        result = saga_of(app, base=SetsHeaders).delay()
        self.check(app, sent, result.id, tenant="acme")

    def test_the_call_that_starts_it(self, app, sent):
        result = saga_of(app).apply_async(headers={"tenant": "acme"})
        self.check(app, sent, result.id, tenant="acme")

    def test_what_a_call_says_stays_where_a_receiver_has_a_default(self, app, sent, receiving):
        receiving(lambda headers: headers.setdefault("tenant", "other"))
        result = saga_of(app).apply_async(headers={"tenant": "acme"})
        self.check(app, sent, result.id, tenant="acme")

    @pytest.mark.parametrize("name", ["traceparent", "periodic_task_name", "X-Request-ID", "b3"])
    def test_headers_of_any_name(self, app, sent, receiving, name):
        disconnect = receiving(lambda headers: headers.setdefault(name, "one"))
        result = saga_of(app).delay()
        disconnect()
        self.check(app, sent, result.id, **{name: "one"})

    def test_stamps(self, app, sent, receiving):
        def stamp(headers: dict[str, Any]) -> None:
            headers["stamped_headers"] = ["tenant"]
            headers["stamps"] = {"tenant": ["acme"]}

        disconnect = receiving(stamp)
        result = saga_of(app).delay()
        disconnect()
        self.check(app, sent, result.id, stamped_headers=["tenant"], stamps={"tenant": ["acme"]})

    def test_a_start_whose_first_step_waits_for_its_time(self, app, sent, receiving):
        disconnect = receiving(lambda headers: headers.setdefault("tenant", "acme"))
        result = saga_of(app).apply_async(countdown=0.001)
        disconnect()
        assert not sent or runtime_of(app).orchestrator.load(result.id).ref(0) is None
        orchestrator = runtime_of(app).orchestrator
        at = orchestrator.store.now() + 1
        orchestrator.apply(result.id, Overdue(at, MessageState.NOT_CHECKED))
        self.check(app, sent, result.id, tenant="acme")

    def test_a_task_that_the_starting_process_does_not_have(self, app, sent, receiving):
        disconnect = receiving(lambda headers: headers.setdefault("tenant", "acme"))
        saga = Saga("elsewhere", app=app)
        saga.local_step("headers.far", inputs=[])
        result = saga.commit().delay()
        disconnect()
        assert sent.of("f0")["tenant"] == "acme"
        assert result.execution.headers == {"tenant": "acme"}

    @pytest.mark.parametrize("stamped", [False, True])
    def test_the_message_that_starts_it(self, app, stamped):
        saga = saga_of(app, name="by-message")
        SAGAS.add("by-message", saga, importable=True)  # as if it were in a worker's module
        given: dict[str, Any] = {"tenant": "acme", "saga": {"plan": "x"}, "x-death": [{"count": 1}]}
        request = {"id": "by-message-1", "called_directly": False, "headers": given}
        if stamped:
            request |= {"stamped_headers": ["team"], "stamps": {"team": ["blue"]}}
        task = app.tasks["celery_saga.start"]
        task.request_stack.push(Context(request))
        try:
            with pytest.raises(Exception, match="was started"):
                task.run(saga=saga.name)
        finally:
            task.request_stack.pop()
        kept = runtime_of(app).orchestrator.load("by-message-1").headers
        stamps = {"stamped_headers": ["team"], "stamps": {"team": ["blue"]}} if stamped else {}
        assert kept == {"tenant": "acme", **stamps}


class TestOnceAndNoMore:
    def test_receivers_are_asked_once_for_each_message(self, app, sent, receiving):
        asked: list[str] = []
        receiving(lambda headers: asked.append(headers["id"]))
        result = saga_of(app).delay()
        run_back(app, result.id)
        assert asked == [f"{result.id}~{ref}~{n}" for ref, n in (("f0", 1), ("f1", 1), ("c0", 2))]

    def test_a_saga_without_added_headers_keeps_nothing(self, app, sent, receiving):
        receiving(lambda headers: None)
        result = saga_of(app).delay()
        assert result.execution.headers is None
        assert "headers" not in result.execution.raw

    def test_what_celery_writes_is_not_kept(self, app, sent, receiving):
        def meddle(headers: dict[str, Any]) -> None:
            headers.update(retries=0, timelimit=[7, None], shadow="other")

        receiving(meddle)
        result = saga_of(app).delay()
        assert result.execution.headers is None
        assert sent.of("f0")["shadow"] == "other"

    def test_a_later_step_adds_nothing_to_the_others(self, app, sent, receiving):
        result = saga_of(app).delay()
        receiving(lambda headers: headers.setdefault("tenant", "acme"))
        assert run_back(app, result.id).headers is None

    def test_a_class_that_sends_nothing_causes_no_trouble(self, app, sent):
        class Silent(Task):
            def apply_async(self, *args: Any, **options: Any) -> Any:
                return None

        result = saga_of(app, base=Silent).apply_async(headers={"tenant": "acme"})
        assert result.execution.headers == {"tenant": "acme"}

    def test_a_class_that_raises_is_dealt_with_as_before(self, app, sent):
        class Raising(Task):
            def apply_async(self, *args: Any, **options: Any) -> Any:
                raise ValueError("not today")

        result = saga_of(app, base=Raising).delay()
        assert result.status.value == "COMPENSATED"
        assert "not today" in str(result.execution.error)


class TestValues:
    @pytest.mark.parametrize(
        "value",
        ["acme", 7, None, True, ["a"], {"a": 1}, datetime(2026, 1, 2, tzinfo=timezone.utc)],
        ids=repr,
    )
    def test_they_come_back_as_they_are(self, app, sent, value):
        result = saga_of(app).apply_async(headers={"h": value})
        execution = SagaExecution.from_raw(result.execution.raw)
        assert execution == result.execution
        run_back(app, result.id)
        assert sent.of("f1")["h"] == value

    def test_what_is_not_json_is_left_out_with_a_warning(self, app, sent, receiving, caplog):
        receiving(lambda headers: headers.update(tenant="acme", odd=object()))
        with caplog.at_level(logging.WARNING, "celery_saga"):
            result = saga_of(app).delay()
        assert result.execution.headers == {"tenant": "acme"}
        assert "'odd'" in caplog.text

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ([("tenant", "acme")], "headers: expected a mapping"),
            ("tenant", "headers: expected a mapping"),
            ({1: "acme"}, "headers: expected a mapping"),
            ({"tenant": object()}, "headers: 'tenant' cannot be sent as JSON"),
        ],
    )
    def test_bad_ones_are_refused_when_it_is_started(self, app, sent, given, text):
        with pytest.raises(ValueError, match=text):
            saga_of(app).apply_async(headers=given)
        assert not sent

    def test_they_are_not_shown(self, app, sent):
        result = saga_of(app).apply_async(headers={"authorization": "s3cr3t"})
        assert "s3cr3t" not in repr(result.execution)

    def test_an_eager_saga_has_them_in_every_step(self, app):
        seen: list[Any] = []
        declare: Any = app.task
        app.conf.task_always_eager = True

        @declare(name="headers.look", shared=False, bind=True)
        def look(self: Any) -> None:
            seen.append(self.request.headers["tenant"])

        saga = Saga("eager", app=app)
        saga.local_step(look, name="a")
        saga.local_step(look, name="b")
        saga.commit().apply_async(headers={"tenant": "acme"})
        assert seen == ["acme", "acme"]
