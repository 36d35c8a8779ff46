"""The last checkpoint and the Celery result in one write, and what it takes for that."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery, states
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult
from kombu import serialization

from celery_saga import Saga, SagaCompensated, SagaManager
from celery_saga.core.context.data import Values
from celery_saga.core.events import StepFailed, StepSucceeded
from celery_saga.core.execution import Claim, Failure
from celery_saga.core.ports import Envelope
from celery_saga.messaging.results import publish_and_notify
from celery_saga.runtime import runtime_of
from celery_saga.stores.redis.payload import Result
from tests.worker.harness import Site

pytestmark = pytest.mark.worker

CONTEXT = {
    "order": {"id": 7, "price": Decimal("12.50"), "at": datetime(2026, 1, 2, tzinfo=timezone.utc)},
    'a "quoted" key/é': [1, None, "\u2028é\n"],
    "": "an empty key",
    "dropped": True,
    "zeta": 1,
    "alpha": 2,
}


def _dated(value: Any) -> str:
    return json.dumps(value, default=lambda each: {"$": str(each)})


serialization.register("dated", _dated, json.loads, "application/x-dated", "utf-8")


class Played:
    """A saga of one step on a site, and its end played without a worker."""

    newer: Any = 2

    def __init__(self, site: Site, app: Celery | None = None) -> None:
        self.app = app or site.new_app("settled")
        self.site = site

        @self.app.task(name="settled.step", shared=False)
        def step() -> None: ...

        @self.app.task(name="settled.compensation", shared=False)
        def compensation() -> None: ...

        saga = Saga("settled", app=self.app)
        saga.local_step(step).on_failure(compensation)
        saga.local_step(step)
        self.saga = saga.commit()
        self.orchestrator: Any = runtime_of(self.app).orchestrator

    def claimed(self, saga_id: str, index: int) -> tuple[Any, Any]:
        ref = self.orchestrator.load(saga_id).ref(index)
        plan = runtime_of(self.app).plans.of(self.saga).hash
        return ref, self.orchestrator.claim(saga_id, ref, Claim(f"t{ref}", "instance"), plan)

    def succeed(self, saga_id: str, index: int, update: Any, remove: tuple[str, ...] = ()) -> Any:
        ref, known = self.claimed(saga_id, index)
        at = self.orchestrator.store.now()
        event = StepSucceeded(at, ref, f"t{ref}", Values(update), remove)
        return self.orchestrator.apply(saga_id, event, known).execution

    def fail(self, saga_id: str, index: int) -> Any:
        ref, known = self.claimed(saga_id, index)
        failure = Failure("builtins.ValueError", "nothing é left", "settled.step")
        event = StepFailed(self.orchestrator.store.now(), ref, failure, f"t{ref}", final=True)
        return self.orchestrator.apply(saga_id, event, known).execution

    def completed(self) -> Any:
        result = self.saga.delay(**CONTEXT)
        self.succeed(result.id, 0, {"order": {"id": 8}, "new": 1})
        return self.succeed(result.id, 1, {"newer": self.newer}, ("dropped",))

    def compensated(self) -> Any:
        result = self.saga.delay(**CONTEXT)
        self.succeed(result.id, 0, {})
        self.fail(result.id, 1)
        return self.succeed(result.id, 0, {})

    def stored(self, saga_id: str) -> tuple[dict[str, Any], int]:
        """The result as it is on the server, and its seconds to live."""
        key = self.app.backend.get_key_for_task(saga_id)
        found: Any = self.site.client.get(key)
        return json.loads(found), int(self.site.client.ttl(key))  # type: ignore[arg-type]

    def by_celery(self, execution: Any) -> tuple[dict[str, Any], int]:
        """The same, stored by the backend itself."""
        self.site.client.delete(self.app.backend.get_key_for_task(execution.saga_id))
        publish_and_notify(self.app, self.orchestrator.load(execution.saga_id))
        return self.stored(execution.saga_id)


def same(one: tuple[dict[str, Any], int], other: tuple[dict[str, Any], int]) -> bool:
    zones = {datetime.fromisoformat(stored.pop("date_done")).tzinfo for stored, _ in (one, other)}
    assert len(zones) == 1
    return one[0] == other[0] and abs(one[1] - other[1]) < 5


@pytest.fixture
def played(site: Site) -> Any:
    yield Played(site)
    site.client.flushdb()


class TestTheSame:
    @pytest.mark.parametrize("end", ["completed", "compensated"])
    def test_as_what_the_backend_stores(self, played: Played, end: str) -> None:
        execution = getattr(played, end)()
        assert execution.settled
        assert (execution.result_pending, execution.due_at) == (False, None)

        one = played.stored(execution.saga_id)

        assert same(one, played.by_celery(execution))

    @pytest.mark.parametrize(
        "settings",
        [
            {"result_extended": True},
            {"result_expires": 100},
            {"result_expires": None, "saga_result_expires": 60},
            {"result_failure_expires": 200},
            {"result_backend_transport_options": {"global_keyprefix": "mine_"}},
            {"result_serializer": "dated", "accept_content": ["json", "dated"]},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("end", ["completed", "compensated"])
    def test_with_the_backends_settings(
        self, site: Site, settings: dict[str, Any], end: str
    ) -> None:
        played = Played(site, site.new_app("set", **settings))
        played.newer = Decimal("2.5")
        execution = getattr(played, end)()

        one = played.stored(execution.saga_id)

        assert same(one, played.by_celery(execution))
        site.client.flushdb()

    def test_one_run_after_the_other(self, played: Played) -> None:
        for execution in [played.completed() for _ in range(3)]:
            one = played.stored(execution.saga_id)

            assert one[0]["task_id"] == execution.saga_id
            assert same(one, played.by_celery(execution))

    @pytest.mark.parametrize("settings", [{}, {"timezone": "Asia/Tokyo"}], ids=str)
    def test_on_a_server_apart(self, site: Site, settings: dict[str, Any]) -> None:
        store = site.url.rpartition("/")[0] + "/1"
        played = Played(site, site.new_app("apart", saga_store_url=store, **settings))
        execution = played.completed()
        one = played.stored(execution.saga_id)

        assert same(one, played.by_celery(execution))
        site.client.flushdb()

    def test_it_reads_as_the_final_context(self, played: Played) -> None:
        execution = played.completed()

        found = AsyncResult(execution.saga_id, app=played.app).get(timeout=1)

        wanted = {**CONTEXT, "order": {"id": 8}, "new": 1, "newer": 2}
        del wanted["dropped"]
        assert list(found.items()) == list(wanted.items())
        assert found == played.orchestrator.load(execution.saga_id).context

    def test_it_reads_as_the_error(self, played: Played) -> None:
        execution = played.compensated()

        with pytest.raises(SagaCompensated, match="nothing é left"):
            AsyncResult(execution.saga_id, app=played.app).get(timeout=1)


class TestOneWrite:
    def test_a_success_costs_no_further_command(self, played: Played) -> None:
        result = played.saga.delay(**CONTEXT)
        played.succeed(result.id, 0, {})
        ref, known = played.claimed(result.id, 1)
        event = StepSucceeded(played.orchestrator.store.now(), ref, f"t{ref}", Values({}))
        revision = known.revision

        execution = played.orchestrator.apply(result.id, event, known).execution

        assert execution.revision == revision + 1
        assert AsyncResult(result.id, app=played.app).state == states.SUCCESS

    def test_a_lost_answer_does_not_store_it_twice(self, played: Played) -> None:
        """The save is repeated under its token, and answers as the first time."""
        execution = played.completed()
        before, _ = played.stored(execution.saga_id)

        store = played.orchestrator.store
        former = replace(execution, revision=execution.revision - 1)
        writer = played.site.client.hget(f"saga:execution:{execution.saga_id}", "w")
        refuse_all = Envelope(store.endpoint, Result([["no such command"]], "text"))

        again = store.save(former, execution, writer.decode(), [refuse_all])  # type: ignore[union-attr]

        assert again.revision == execution.revision
        assert played.stored(execution.saga_id)[0] == before

    def test_without_permission_the_backend_stores_it(self, site: Site) -> None:
        """The checkpoint is not saved as if the result were there."""
        site.client.execute_command(
            "ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-setex", "-set"
        )
        place = urlsplit(site.url)
        url = f"redis://shy:pw@{place.hostname}:{place.port}{place.path}"
        app = Celery("shy", broker=site.url, backend=url, set_as_current=False)
        app.conf.update(
            result_backend_max_retries=0,
            result_backend_transport_options={"retry_policy": {"max_retries": 0}},
        )
        SagaManager(app)
        played = Played(site, app)

        execution = played.completed()

        assert execution.status.value == "COMPLETED"
        assert execution.result_pending
        assert not site.client.exists(app.backend.get_key_for_task(execution.saga_id))
        site.client.execute_command("ACL", "DELUSER", "shy")
        site.client.flushdb()
        app.close()


class Slow(RedisBackend):
    """A backend of the user's own; it does something else with a result."""

    def _set(self, key: Any, value: Any, expires: Any = None) -> None:
        self.client.rpush("slow", value)
        super()._set(key, value, expires)


class Chatty(RedisBackend):
    """One that says something else besides."""

    def _set(self, key: Any, value: Any, expires: Any = None) -> None:
        self.client.rpush("chatty", f"stored {key}")
        super()._set(key, value, expires)


class TestTheBackendItself:
    """Where it is not known to be the same, the backend stores the result."""

    def check(self, played: Played) -> Any:
        execution = played.completed()
        assert not execution.result_pending
        return AsyncResult(execution.saga_id, app=played.app).get(timeout=1)

    def test_compressed(self, site: Site) -> None:
        app = site.new_app("packed", result_compression="gzip")
        if not getattr(app.backend, "compression", None):
            pytest.skip("this Celery does not compress results")
        assert self.check(Played(site, app))["newer"] == 2
        site.client.flushdb()

    def test_in_another_database(self, site: Site) -> None:
        other = site.url.rpartition("/")[0] + "/1"
        app = Celery("other", broker=site.url, backend=other, set_as_current=False)
        app.conf.saga_store_url = site.url
        SagaManager(app)
        assert self.check(Played(site, app))["newer"] == 2
        site.client.flushdb()
        app.close()

    @pytest.mark.parametrize("kind", [Slow, Chatty])
    def test_a_backend_of_ones_own_still_does_what_it_does(
        self, site: Site, kind: type[RedisBackend]
    ) -> None:
        name = f"{__name__}:{kind.__name__}+{site.url}"
        app = Celery("own", broker=site.url, backend=name, set_as_current=False)
        SagaManager(app)
        assert isinstance(app.backend, kind)
        assert self.check(Played(site, app))["newer"] == 2
        assert site.client.llen(kind.__name__.lower()) == 1
        site.client.flushdb()
        app.close()
