"""What a released version has written is read for ever: checkpoints, messages, results, indexes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from kombu.utils import json as kombu_json

from celery_saga import SagaCompensated, SagaExecution, SagaStuck
from celery_saga.core.execution import SagaStatus, StepRef, StepStatus
from celery_saga.core.plan import Node
from celery_saga.core.ports import Reserved
from celery_saga.messaging.message import header_of, mark_of
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.builders import found_by
from celery_saga.testing.embedded import EmbeddedValkey
from tests.core.test_codec import assert_same
from tests.golden.reading import Golden, files, run_on
from tests.golden.values import VALUES

GOLDEN = {f"v{each.version}-{each.name}": each for each in files()}
CHECKPOINTS = {name: each for name, each in GOLDEN.items() if each.raw}
MESSAGES = [
    (each, message)
    for each in CHECKPOINTS.values()
    for message in each.messages
    # Neither a callback nor the request of a remote step.
    if message["headers"]["task"] not in ("golden.notify", "golden.service")
]


def of(name: str) -> Golden:
    return GOLDEN[f"v1-{name}"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedValkey() as server:
        yield server.url(0)


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield client


@pytest.mark.parametrize("name", CHECKPOINTS)
class TestCheckpoints:
    def test_both_forms_are_the_same_execution(self, name: str, client: redis.Redis) -> None:
        golden = GOLDEN[name]
        golden.restore(client)
        exported = SagaExecution.from_raw(golden.raw)
        loaded = RedisStore(client).load(golden.name)
        assert loaded == exported
        assert list(loaded.values) == list(exported.values)

    def test_it_is_written_as_it_was(self, name: str) -> None:
        """So an older worker reads what a newer one has saved and added nothing to."""
        golden = GOLDEN[name]
        exported = SagaExecution.from_raw(golden.raw)
        assert exported.raw == golden.raw
        assert exported.plan.text == golden.fields["plan"]

    def test_it_continues_in_memory(self, name: str) -> None:
        golden, store = GOLDEN[name], MemoryStore()
        store.create(SagaExecution.from_raw(golden.raw), "golden")
        lines, end = run_on(store, golden.name)
        assert (lines, end.status) == (golden.continues, golden.ends)

    def test_it_continues_on_a_server(self, name: str, client: redis.Redis) -> None:
        golden, store = GOLDEN[name], RedisStore(client)
        golden.restore(client)
        lines, end = run_on(store, golden.name)
        assert (lines, end.status) == (golden.continues, golden.ends)

    def test_the_indexes_find_it(self, name: str, client: redis.Redis) -> None:
        golden, store = GOLDEN[name], RedisStore(client)
        golden.restore(client)
        found = store.load(golden.name)
        assert found is not None
        assert found_by(store, found.status, 10) == [golden.name]
        assert found_by(store, found.status, 10, found.name) == [golden.name]
        claims = {
            ref for path, ref in ((r.path, r) for r in found.active) if found.steps[path].claim
        }
        assert {ref for _, ref in store.claims_of("instance-1")} == claims
        assert store.delete(golden.name)
        assert store.claims_of("instance-1") == []


class Carrier:
    """What a worker has of a message: its headers."""

    def __init__(self, headers: dict[str, Any]) -> None:
        self.headers = headers


@pytest.mark.parametrize(
    ("golden", "message"),
    MESSAGES,
    ids=[f"{each.name}-{m['headers']['id']}" for each, m in MESSAGES],
)
def test_a_message_names_its_step(golden: Golden, message: Any) -> None:
    execution = SagaExecution.from_raw(golden.raw)
    assert header_of(Carrier(message["headers"])) == mark_of(execution)
    parsed = StepRef.parse(message["headers"]["id"])
    assert parsed is not None
    assert parsed[0] == golden.name
    path = execution.plan.first_of(parsed[1].path)
    called = {(at, way, call.task): call for at, call, way in execution.plan.calls()}
    task = message["headers"]["task"]
    call = called[path, parsed[1].direction, task]
    arguments, given, _ = message["body"]
    assert len(arguments) == (call.style == "context") + (task == "golden.handle")
    assert set(given) <= {item.param for item in call.inputs}


class TestValues:
    def test_a_context(self, client: redis.Redis) -> None:
        golden = of("values")
        golden.restore(client)
        loaded = RedisStore(client).load("values")
        expected = {key: value for key, value in VALUES.items() if key != "yes"} | {"seen": [1]}
        assert_same(dict(loaded.values), expected)
        assert_same(dict(SagaExecution.from_raw(golden.raw).values), expected)

    def test_the_arguments_of_messages(self) -> None:
        first, second = of("values").messages
        (context,), _, _ = kombu_json.loads(json.dumps(first["body"]))
        assert_same(context, VALUES)
        _, given, _ = kombu_json.loads(json.dumps(second["body"]))
        assert_same(given, {key: VALUES[key] for key in given})
        assert len(given) == 7

    def test_a_large_context_stays_in_the_checkpoint(self) -> None:
        ((arguments, _, _),) = (message["body"] for message in of("values-large").messages)
        assert arguments == [{"saga_context": "values-large"}]


@pytest.mark.parametrize("name", [name for name, each in CHECKPOINTS.items() if each.result])
def test_a_stored_result(name: str, client: redis.Redis, url: str) -> None:
    golden = GOLDEN[name]
    client.set(f"celery-task-meta-{golden.name}", golden.result or "")
    with Celery("golden", broker=url, backend=url, set_as_current=False) as app:
        result = AsyncResult(golden.name, app=app)
        if result.state == "SUCCESS":
            assert_same(result.get(timeout=5), dict(SagaExecution.from_raw(golden.raw).view(())))
        else:
            kind = SagaStuck if "SagaStuck" in str(golden.result) else SagaCompensated
            with pytest.raises(kind, match=golden.name):
                result.get(timeout=5)


def test_the_heartbeats_of_workers(client: redis.Redis) -> None:
    of("instances").restore(client)
    store = RedisStore(client)
    expected = {Reserved("a~f0~1", False), Reserved("b~c1.0~2", True)}
    assert store.reserved_by() == {"instance-1": expected}
    assert client.zrange("saga:instances", 0, -1) == [b"instance-1", b"instance-2"]
    assert client.zrange("saga:apps", 0, -1) == [b"golden"]


#: Fields of which a file cannot have another value than the default one, and why.
NOT_IN_FILES = {
    "args": "of a call that a retry has changed; what was changed is in the step's record",
    "round": "nothing sets it yet",
    "root_id": "of sagas that a task starts",
    "parent_id": "of sagas that a task starts",
}


def test_every_field_of_a_record_is_in_some_file() -> None:
    """A new field needs a new case: see CONTRIBUTING.md."""
    executions = [SagaExecution.from_raw(each.raw) for each in CHECKPOINTS.values()]
    records: list[Any] = [*executions, *(each.plan for each in executions)]
    records += [step for each in executions for _, step in each.steps.items()]
    records += [node for each in executions for _, node in each.plan.walk()]
    records += [call for each in executions for _, call, _ in each.plan.calls()]
    of_kind: dict[Any, list[Any]] = {}
    for record in records:
        for kind in filter(is_dataclass, type(record).__mro__):
            of_kind.setdefault(kind, []).append(record)
    missing = {
        spec.name
        for kind, found in of_kind.items()
        for spec in fields(kind)
        if spec.name in vars(kind).get("__annotations__", ())  # those of bases are there already
        and all(getattr(each, spec.name) == default_of(spec) for each in found)
    }
    assert missing <= NOT_IN_FILES.keys(), missing - NOT_IN_FILES.keys()
    assert set(get_args(Node)) <= of_kind.keys()


def default_of(spec: Any) -> Any:
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def test_every_status_is_in_some_file() -> None:
    executions = [SagaExecution.from_raw(each.raw) for each in CHECKPOINTS.values()]
    assert {each.status for each in executions} == set(SagaStatus)
    assert {step.status for each in executions for step in each.steps} == set(StepStatus)
