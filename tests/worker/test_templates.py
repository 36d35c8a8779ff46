"""Messages from templates are the messages that Celery makes, or Celery makes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest
from celery import Celery, Task, signals

from celery_saga import Saga, SagaContext, saga_step
from celery_saga.core.events import Dispatch
from celery_saga.messaging.redis.publish import send
from celery_saga.runtime import runtime_of
from tests.worker.harness import Site

pytestmark = pytest.mark.worker


@saga_step(context=True)
def look(context: SagaContext) -> None:
    """A plain function as a step."""


def declared(app: Celery) -> Any:
    @app.task(name="pay", shared=False)
    def pay(order: Any, customer: str = "anyone", total: float = 0.0) -> None:
        """Is never run: these tests look at its messages."""

    return pay


def message(raw: bytes) -> dict[str, Any]:
    """A message with its body in the open."""
    found: dict[str, Any] = json.loads(raw)
    found["body"] = json.loads(base64.b64decode(found["body"]))
    for name in ("delivery_tag", "argsrepr", "kwargsrepr"):  # the latter two are headers as well
        found["properties"].pop(name, None)
    return found


class Post:
    """Sends sagas of one step and reads what arrived."""

    def __init__(self, site: Site, app: Celery | None = None) -> None:
        self.site, self.app = site, app or site.new_app("post")
        self.task = self.app.tasks.get("pay") or declared(self.app)
        self.site.app.close()

    def sent(
        self, *contexts: dict[str, Any], saga: Saga | None = None, **options: Any
    ) -> list[Any]:
        """The raw messages of one start for each context, in order."""
        saga = saga or Saga("post", app=self.app, steps=[self.task]).commit()
        for context in contexts:
            saga.apply_async(context, **options)
        queue = options.get("queue", "celery")
        (key,) = self.site.client.keys(f"{queue}*") or [queue]  # a priority is part of the key
        found: Any = self.site.client.lrange(key, 0, -1)
        self.site.client.delete(key)
        return list(reversed(found))


@pytest.fixture
def post(site: Site) -> Iterator[Post]:
    yield Post(site)
    site.client.flushdb()


def compact(raw: bytes) -> bool:
    """Whether a message was written from a template: Celery writes with spaces."""
    return b'", "' not in raw


ORDERS = [{"order": {"id": n}, "customer": f"c{n} \u00e4", "total": n / 4} for n in range(5)]


class TestTheSame:
    def test_the_first_two_are_celerys_the_others_are_not(self, post: Post) -> None:
        assert [compact(raw) for raw in post.sent(*ORDERS)] == [False, False, True, True, True]

    def test_a_message_from_a_template_equals_celerys(self, post: Post) -> None:
        raw = post.sent(*ORDERS)[4]
        written = message(raw)
        saga_id, _, _ = written["headers"]["root_id"].partition("~")
        runtime = runtime_of(post.app)
        execution = runtime.orchestrator.load(saga_id)
        ref = execution.ref(0)
        assert ref is not None
        publisher: Any = runtime.orchestrator.publisher

        send(post.app, publisher.message(execution, Dispatch(ref)))

        made = message(post.site.client.lpop("celery"))  # type: ignore[arg-type]
        assert written == made
        assert written["body"][1] == ORDERS[4]

    def test_context_style(self, post: Post) -> None:
        saga = Saga("plain", app=post.app, steps=[look]).commit()

        raws = post.sent(*({"n": n, "text": '"\\\u20ac'} for n in range(3)), saga=saga)

        assert [compact(raw) for raw in raws] == [False, False, True]
        assert message(raws[2])["body"][0] == [{"n": 2, "text": '"\\\u20ac'}]

    def test_options_have_templates_of_their_own(self, post: Post) -> None:
        post.sent(*ORDERS)

        raws = post.sent(*ORDERS[:3], queue="other", priority=3)

        assert [compact(raw) for raw in raws] == [False, False, True]
        assert all(message(raw)["properties"]["priority"] == 3 for raw in raws)
        assert all(
            message(raw)["properties"]["delivery_info"]["routing_key"] == "other" for raw in raws
        )

    def test_headers_of_the_start_are_each_sagas_own(self, post: Post) -> None:
        tenants: list[Any] = ["acme", "other", "\u00e4", None, {"id": [7, True]}]

        raws = [post.sent(ORDERS[0], headers={"tenant": name})[0] for name in tenants]
        raws += post.sent(ORDERS[0])

        assert [compact(raw) for raw in raws] == [False, False, True, True, True, True]
        assert [message(raw)["headers"].get("tenant", "none") for raw in raws] == [*tenants, "none"]
        assert len({message(raw)["headers"]["saga"]["plan"] for raw in raws}) == 1

    def test_stamps_of_the_start_are_in_celerys_messages(self, post: Post) -> None:
        post.sent(*ORDERS)
        stamps = {"stamped_headers": ["team"], "stamps": {"team": ["blue"]}}

        raws = post.sent(*ORDERS[:2], headers=stamps)

        for raw in raws:
            assert {name: message(raw)["headers"][name] for name in stamps} == stamps
        assert compact(post.sent(ORDERS[0])[0])

    def test_a_signature_is_still_checked(self, post: Post) -> None:
        post.sent(*ORDERS)
        post.task.__header__ = _refusing
        runtime = runtime_of(post.app)
        publisher: Any = runtime.orchestrator.publisher
        publisher._outbox.forget()
        saga = Saga("post", app=post.app, steps=[post.task]).commit()

        found = [saga.delay(order=n) for n in range(4)]

        assert {result.status.value for result in found} == {"COMPENSATED"}
        assert all("nothing fits" in str(result.execution.error) for result in found)


def _refusing(*args: Any, **kwargs: Any) -> None:
    raise TypeError("nothing fits")


class Overridden(Task):
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        return super().apply_async(*args, **kwargs)


class Shadowed(Task):
    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
        return f"pay for {kwargs['customer']}"


def by_hand(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": "by-hand"}


class TestCelerysAlone:
    """Where something has a say in a single message, Celery makes each of them."""

    @pytest.fixture(params=["before_task_publish", "after_task_publish"])
    def heard(self, request: Any) -> Iterator[list[Any]]:
        found: list[Any] = []

        def receiver(**kwargs: Any) -> None:
            found.append(kwargs)

        signal = getattr(signals, request.param)
        signal.connect(receiver, weak=False)
        yield found
        signal.disconnect(receiver)

    def test_receivers_of_signals(self, post: Post, heard: list[Any]) -> None:
        assert not any(compact(raw) for raw in post.sent(*ORDERS))
        assert len(heard) >= len(ORDERS)

    def test_a_receiver_that_comes_later(self, post: Post) -> None:
        post.sent(*ORDERS)

        def receiver(headers: dict[str, Any], **kwargs: Any) -> None:
            headers["trace"] = "yes"

        signals.before_task_publish.connect(receiver, weak=False)
        try:
            (raw,) = post.sent(ORDERS[0])
        finally:
            signals.before_task_publish.disconnect(receiver)
        assert message(raw)["headers"]["trace"] == "yes"

    @pytest.mark.parametrize("base", [Overridden, Shadowed])
    def test_task_classes_with_a_word_in_it(self, site: Site, base: Any) -> None:
        app = site.new_app("classes")

        @app.task(name="pay", base=base, shared=False)
        def pay(order: Any, customer: str = "anyone", total: float = 0.0) -> None: ...

        raws = Post(site, app).sent(*ORDERS)

        assert not any(compact(raw) for raw in raws)
        if base is Shadowed:
            assert message(raws[4])["headers"]["shadow"] == "pay for c4 \u00e4"

    def test_routes_that_are_functions(self, site: Site) -> None:
        app = site.new_app("routed", task_routes=(by_hand,))
        post = Post(site, app)
        post.sent(*ORDERS)

        found: Any = site.client.lrange("by-hand", 0, -1)

        site.client.flushdb()
        assert len(found) == len(ORDERS)
        assert not any(compact(raw) for raw in found)

    def test_routes_that_are_a_table_do_no_harm(self, site: Site) -> None:
        app = site.new_app("table", task_routes={"pay": {"queue": "tabled"}})
        Post(site, app).sent(*ORDERS)

        found: Any = site.client.lrange("tabled", 0, -1)

        site.client.flushdb()
        assert sum(compact(raw) for raw in found) == 3

    def test_a_patched_celery(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        """As tracing libraries do it."""
        plain = Task.apply_async

        @wraps(plain)
        def apply_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            headers = {**(kwargs.get("headers") or {}), "traced": True}
            return plain(self, *args, **{**kwargs, "headers": headers})

        monkeypatch.setattr(Task, "apply_async", apply_async)

        raws = post.sent(*ORDERS)

        assert all(message(raw)["headers"]["traced"] for raw in raws)

    def test_a_message_that_differs_by_its_time(self, post: Post) -> None:
        saga = Saga("late", app=post.app)
        saga.local_step(post.task, expires=60)

        raws = post.sent(*ORDERS, saga=saga.commit())

        assert not any(compact(raw) for raw in raws)
        assert len({message(raw)["headers"]["expires"] for raw in raws}) == len(ORDERS)

    def test_other_bodies(self, post: Post) -> None:
        saga = Saga("packed", app=post.app)
        saga.local_step(post.task, compression="gzip")

        raws = post.sent(*ORDERS, saga=saga.commit())

        assert all(json.loads(raw)["headers"]["compression"] for raw in raws)
