"""Remote steps: a service without the plugin, on a queue of its own, replies to requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga import (
    RemoteSagaStep,
    Saga,
    SagaCompensated,
    SagaManager,
    SagaNotFound,
    SagaResponse,
    SagaResult,
    SagaStatus,
    errors,
)
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import remote_steps as remote
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Journal, Site
from tests.worker.remote_site import FULL, calling, order, own_worker, said, service
from tests.worker.servers import Server
from tests.worker.stage import expect_no_leftovers

pytestmark = pytest.mark.worker

#: What the service does, the handlers there are -> the status, and what is run after the request.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "succeeds": ({}, FULL, "COMPLETED", ["took", "b/f"]),
    "succeeds without a handler": ({}, {"failure": remote.ask_back}, "COMPLETED", ["b/f"]),
    "a later step fails": (
        {"fail": ["b/f"]},
        FULL,
        "COMPENSATED",
        ["took", "b/f", "stock/c", "release", "a/c"],
    ),
    "its handler fails": (
        {"do": ["took fails"]},
        FULL,
        "COMPENSATED",
        ["took", "stock/c", "release", "a/c"],
    ),
    "its handler fails, no compensation": (
        {"do": ["took fails"]},
        {"success": remote.took},
        "STUCK",
        ["took", "a/c"],
    ),
    "refuses": (
        {"do": ["reserve refuses"]},
        {"success": remote.took, "failure": remote.ask_back},
        "COMPENSATED",
        ["a/c"],
    ),
    "refuses, which is handled": (
        {"do": ["reserve refuses"]},
        FULL,
        "COMPLETED",
        ["refused", "b/f"],
    ),
    "refuses, handled, and a later step fails": (
        {"do": ["reserve refuses"], "fail": ["b/f"]},
        FULL,
        "COMPENSATED",
        ["refused", "b/f", "a/c"],
    ),
    "refuses, and the handler raises": (
        {"do": ["reserve refuses", "refused raises"]},
        FULL,
        "COMPENSATED",
        ["refused", "stock/c", "release", "a/c"],
    ),
    "refuses, and the handler returns an exception": (
        {"do": ["reserve refuses", "refused returns"]},
        FULL,
        "COMPENSATED",
        ["refused", "stock/c", "release", "a/c"],
    ),
    "fails": (
        {"do": ["reserve fails"]},
        FULL,
        "COMPENSATED",
        ["stock/c", "release", "a/c"],
    ),
    "fails, no compensation": ({"do": ["reserve fails"]}, {}, "STUCK", ["a/c"]),
    "fails, and only read": (
        {"do": ["reserve fails"]},
        {"read_only": True},
        "COMPENSATED",
        ["a/c"],
    ),
    "retries": ({"do": ["reserve retries"]}, FULL, "COMPLETED", ["reserve", "took", "b/f"]),
    "compensates with a retry": (
        {"fail": ["b/f"], "do": ["release retries"]},
        FULL,
        "COMPENSATED",
        ["took", "b/f", "stock/c", "release", "release", "a/c"],
    ),
}


@pytest.fixture(scope="module")
def both(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    """A site with a worker of each service, for all rows."""
    found = calling(Site(valkey.url(14), journal, folder))
    try:
        own_worker(found)
        service(found)
        yield found
        expect_no_leftovers(found)
    finally:
        found.close()


@pytest.fixture(scope="module")
def results(both: Site) -> dict[str, SagaResult]:
    """The sagas of all rows, which run at once."""
    return {
        row: order(both, name=row, **handlers).delay(**context)
        for row, (context, handlers, *_) in ROWS.items()
    }


@pytest.mark.parametrize("row", ROWS)
def test_what_the_service_does(both: Site, results: dict[str, SagaResult], row: str) -> None:
    _, _, status, then = ROWS[row]

    assert both.settled(results[row]) == status
    assert said(both, results[row]) == ["a/f", "stock/f", "reserve", *then]


def test_the_reply_is_in_the_context(both: Site) -> None:
    result = order(both, name="sync", **FULL).delay(answer={"id": 7, "lines": [1.5, None]})
    assert both.settled(result) == "COMPLETED"
    assert result.context["got"] == {"id": 7, "lines": [1.5, None]}
    line = both.journal.said(result.id, "took")[0]
    assert (line["content"], line["status"]) == ({"id": 7, "lines": [1.5, None]}, 200)


#: What makes the request, what handles the reply -> both are run on workers.
KINDS: dict[str, tuple[Any, Any]] = {
    "functions": (remote.ask, remote.took),
    "an async def, which awaits the content": (remote.ask, remote.took_async),
    "a task that gets its own parameters": (remote.ask_by_name, remote.took),
    "a bound task": (remote.ask, remote.took_as_task),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_make_the_request_and_handle_the_reply(both: Site, kind: str) -> None:
    action, handler = KINDS[kind]
    saga = order(both, action=action, name=kind, success=handler, failure=remote.ask_back)
    result = saga.delay(order={"id": 1}, answer={"id": 1})
    assert both.settled(result) == "COMPLETED"
    assert result.context["got"] == {"id": 1}


#: What a task returns in place of a request -> the error that says what to change.
MISTAKES: dict[str, tuple[Any, str]] = {
    "no request": (remote.asks_without_a_request, "expected a SagaRequest"),
    "a method of the context": (remote.asks_with_a_method, r"context\['items'\]"),
    "an unknown target": (remote.asks_without_a_target, "unknown target 'warehouse'.*saga_targets"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_the_step_and_nothing_is_sent(both: Site, mistake: str) -> None:
    action, says = MISTAKES[mistake]
    result = order(both, action=action, name=mistake, **FULL).delay()
    with pytest.raises(SagaCompensated, match=says):
        result.get(timeout=40)
    assert said(both, result) == ["a/f", "a/c"]


def test_a_task_that_the_service_does_not_have(
    both: Site,
) -> None:
    saga = order(both, action=remote.asks_unknown, name="unknown", timeout=0.5, **FULL)
    result = saga.delay()
    with pytest.raises(SagaCompensated, match=r"NotRegistered: 'stock\.unknown'"):
        result.get(timeout=40)


def test_the_same_in_a_queue_of_our_own_is_found_at_once(both: Site) -> None:
    result = order(both, action=remote.asks_our_own, name="own", success=remote.took).delay()
    with pytest.raises(SagaCompensated, match=r"of its queue has the task 'own\.unknown'"):
        result.get(timeout=40)


def test_the_request_has_the_headers_of_the_start_and_its_own(both: Site) -> None:
    result = order(both, name="headers", **FULL).apply_async({}, headers={"tenant": "t1"})
    assert both.settled(result) == "COMPLETED"
    line = both.journal.said(result.id, "reserve")[0]
    assert line["id"] == f"{result.id}~r1~2"
    assert line["tenant"] == "t1"
    assert line["saga_request"].keys() == {"saga_id", "ref", "token"}
    assert (line["saga_request"]["saga_id"], line["saga_request"]["ref"]) == (result.id, "f1~2")


def test_a_reply_that_comes_from_elsewhere(both: Site) -> None:
    """As of an HTTP callback: the service's task hands the request on, and returns."""
    result = order(both, name="elsewhere", **FULL).delay(do=["reserve is handed on"])
    header = both.journal.wait(result.id, "reserve")["saga_request"]
    manager = SagaManager(both.app)

    assert not manager.reply(result.id, "stock", "forged", token="forged")
    with pytest.raises(ValueError, match="no remote step 'a': expected one of \\['stock'\\]"):
        manager.reply(result.id, "a", token=header["token"])
    with pytest.raises(SagaNotFound):
        manager.reply("unknown", "stock", token=header["token"])
    assert manager.reply(result.id, header["ref"], {"id": 8}, token=header["token"])
    assert both.settled(result) == "COMPLETED"
    assert result.context["got"] == {"id": 8}
    assert not manager.reply(result.id, "stock", token=header["token"])


def test_items_of_a_loop_have_requests_of_their_own(both: Site) -> None:
    step = RemoteSagaStep(remote.ask, name="stock", on_failure=remote.ask_back)
    step.on_success(remote.took)
    saga = Saga("loop", app=both.app)
    saga.for_each("orders", step, parallel=True)
    saga.local_step(late, name="b").on_failure(compensation)
    result = saga.commit().delay(orders=[1, 2, 3])

    assert both.settled(result) == "COMPLETED"
    ids = {line["id"] for line in both.journal.said(result.id, "reserve")}
    assert ids == {f"{result.id}~r0.{item}~2" for item in range(3)}


class TestRun:
    """The calls of the Minos framework."""

    def test_a_response_continues_the_saga(self, both: Site) -> None:
        saga, manager = order(both, name="run", **FULL), SagaManager(both.app)
        paused = asyncio.run(
            manager.run(saga, {"do": ["reserve is handed on"]}, pause_on_disk=True, user="u-1")
        )
        assert paused.status == SagaStatus.Paused
        line = both.journal.wait(paused.saga_id, "reserve")
        assert line["user"] == "u-1"
        token = line["saga_request"]["token"]

        forged = SagaResponse("forged", uuid=paused.uuid, token="forged")
        paused = asyncio.run(manager.run(response=forged, pause_on_disk=True))
        assert paused.status == SagaStatus.Paused
        response = SagaResponse({"id": 8}, uuid=paused.uuid, token=token)
        execution = asyncio.run(manager.run(response=response))
        assert execution.status == SagaStatus.Finished
        assert execution.context.got == {"id": 8}
        again = asyncio.run(manager.run(response=response, pause_on_disk=True))
        assert again.status == SagaStatus.Finished

    def test_a_refusal_raises_what_a_failed_saga_raises(self, both: Site) -> None:
        handlers = {"success": remote.took, "failure": remote.ask_back}
        saga, manager = order(both, name="refusal", **handlers), SagaManager(both.app)
        context = {"do": ["reserve is handed on"]}
        paused = asyncio.run(manager.run(saga, context, pause_on_disk=True))
        token = both.journal.wait(paused.saga_id, "reserve")["saga_request"]["token"]
        refusal = SagaResponse("none left", status=400, uuid=paused.uuid, token=token)
        with pytest.raises(SagaCompensated, match="none left") as caught:
            asyncio.run(manager.run(response=refusal))
        assert isinstance(caught.value.exception, errors.SagaResponseException)


def test_a_store_apart_from_the_broker(
    servers: tuple[Server, Server], journal: Journal, folder: Path
) -> None:
    """The request is sent after its checkpoint, and that it was sent is saved after it."""
    broker, store = servers
    site = calling(Site(broker.url(0), journal, folder))
    try:
        site.settings["saga_store_url"] = store.url(0)
        site.app = site.new_app("apart")
        own_worker(site)
        service(site)
        result = order(site, **FULL).delay(hold=["reserve"], fail=["b/f"])
        site.journal.wait(result.id, "reserve")
        wait_for(lambda: result.execution.steps[1].request.sent)  # type: ignore[union-attr]
        site.journal.open(result.id, "reserve")
        assert site.settled(result) == "COMPENSATED"
        then = ["took", "b/f", "stock/c", "release", "a/c"]
        assert said(site, result) == ["a/f", "stock/f", "reserve", *then]
    finally:
        site.close()
