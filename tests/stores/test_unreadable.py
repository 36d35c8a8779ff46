"""What cannot be read of a saga's record: the error names saga and field, whatever is asked."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celery_saga import SagaManager
from celery_saga.core.context.data import PartialValues
from celery_saga.core.execution import Claim, SagaStatus
from celery_saga.core.ports import Reserved
from celery_saga.errors import StoreError, UnreadableCheckpoint, UnsupportedCheckpoint
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.builders import claim, create, found_by, granted, succeed
from celery_saga.testing.embedded import EmbeddedValkey

NEWER = json.dumps({"version": 99, "status": "RUNNING", "mood": "good"})

#: Field of the hash, its value (``None``: it is missing), and how the error calls the field.
DAMAGED = [
    ("head", "{", "head"),
    ("head", "[]", "head"),
    ("head", json.dumps({"version": 1, "status": "HAPPY"}), "head"),
    ("head", json.dumps({"version": 1, "mood": "good"}), "head"),
    ("head", b"\xff", "head"),
    ("head", None, "head"),
    ("plan", "{", "plan"),
    ("plan", "{}", "plan"),
    ("plan", b"\xff", "plan"),
    ("plan", None, "plan"),
    ("rev", "one", "rev"),
    ("rev", None, "rev"),
    ("s0", "{", "s0"),
    ("s0", json.dumps({"status": "HAPPY"}), "s0"),
    ("s0", json.dumps({"mood": "good"}), "s0"),
    ("h1", "{", "h1"),
    ("h12", json.dumps([{"mood": "good"}]), "h12"),
    ("o0", "f0~1 many", "o0"),
    ("k0", "{", "k0"),
    ("k0", json.dumps({"mood": "good"}), "k0"),
    ("c:order", b"\xff", "context['order']"),
]


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url(9)) as client:
        client.flushdb()
        yield client


@pytest.fixture
def store(client: redis.Redis) -> RedisStore:
    return RedisStore(client)


def damage(client: redis.Redis, saga_id: str, field: str, text: str | bytes | None) -> None:
    key = f"saga:execution:{saga_id}"
    if text is None:
        client.hdel(key, field)
    else:
        client.hset(key, field, text)


def expect_named(error: StoreError, saga_id: str, field: str) -> None:
    assert isinstance(error, UnreadableCheckpoint)
    assert (error.saga_id, error.field) == (saga_id, field)
    assert repr(saga_id) in str(error)
    assert repr(field) in str(error)


@pytest.mark.parametrize(("field", "text", "name"), DAMAGED)
def test_a_load_names_saga_and_field(client, store, field, text, name):
    saga_id = create(store, order=7).saga_id
    damage(client, saga_id, field, text)

    with pytest.raises(StoreError) as caught:
        store.load(saga_id)

    expect_named(caught.value, saga_id, name)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("field", "text"), [("head", "{"), ("s0", "{"), ("s0", b"\xff"), ("k0", "{"), ("o0", "x")]
)
@pytest.mark.parametrize("plan_is_known", [False, True])
def test_a_claim_names_saga_and_field(client, store, field, text, plan_is_known):
    first = create(store, order=7)
    if plan_is_known:
        granted(claim(store, create(store)))
    key = f"saga:execution:{first.saga_id}"
    if field == "o0":  # only a ref that looks like the claimed one is read on
        text = str(client.hget(key, "o0").decode().partition(" ")[0]) + " many"
    damage(client, first.saga_id, field, text)
    ref, plan = first.ref(0), first.plan.hash if plan_is_known else None
    mine = granted(claim(store, create(store))).steps[0].claim
    assert mine is not None

    with pytest.raises(StoreError) as caught:
        store.claim(first.saga_id, ref, mine, plan)

    expect_named(caught.value, first.saga_id, field)


@pytest.mark.parametrize("plan_is_known", [False, True])
def test_what_a_newer_version_saved_is_not_claimed(client, store, plan_is_known):
    """Or its step would count as begun by a worker that cannot even read it."""
    first = create(store, order=7)
    if plan_is_known:
        granted(claim(store, create(store)))
    damage(client, first.saga_id, "head", NEWER)
    before = client.hgetall(f"saga:execution:{first.saga_id}")
    plan = first.plan.hash if plan_is_known else None

    with pytest.raises(UnsupportedCheckpoint, match="version 99"):
        store.claim(first.saga_id, first.ref(0), Claim("token", "older"), plan)

    assert client.hgetall(f"saga:execution:{first.saga_id}") == before
    assert store.claims_of("older") == []


def test_the_second_start_of_an_id_names_saga_and_field(client, store):
    first = create(store)
    damage(client, first.saga_id, "head", "{")

    with pytest.raises(StoreError) as caught:
        store.create(first, uuid.uuid4().hex)

    expect_named(caught.value, first.saga_id, "head")


def test_waiting_for_it_names_saga_and_field(client, store):
    first = create(store)
    damage(client, first.saga_id, "s0", "{")

    with pytest.raises(StoreError) as caught:
        store.wait(first.saga_id, 5.0)

    expect_named(caught.value, first.saga_id, "s0")


def test_a_save_names_saga_and_field(client, store):
    first = granted(claim(store, create(store)))
    damage(client, first.saga_id, "rev", "one")

    with pytest.raises(StoreError) as caught:
        succeed(store, first)

    expect_named(caught.value, first.saga_id, "rev")


def test_a_newer_version_says_so_whatever_else_is_new_in_it(client, store):
    first = create(store)
    damage(client, first.saga_id, "head", NEWER)
    damage(client, first.saga_id, "s0", json.dumps({"mood": "good"}))

    with pytest.raises(UnsupportedCheckpoint, match=r"version 99.*upgrade celery_saga") as caught:
        store.load(first.saga_id)

    assert (caught.value.saga_id, caught.value.field) == (first.saga_id, "head")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.found) == (str(caught.value), 99)


@pytest.mark.parametrize("text", ["{", "", json.dumps({"__type__": "date", "__value__": 3})])
def test_a_value_of_the_context_is_named_when_it_is_read(client, store, text):
    first = create(store, order=7, customer="c")
    damage(client, first.saga_id, "c:order", text)
    found = store.load(first.saga_id)

    assert found.values["customer"] == "c"
    for read in (lambda: found.values["order"], lambda: found.context):
        with pytest.raises(StoreError) as caught:
            read()
        expect_named(caught.value, first.saga_id, "context['order']")


def test_a_value_of_the_context_is_named_where_a_part_is_read(client, store):
    granted(claim(store, create(store)))
    first = create(store, order=7)
    damage(client, first.saga_id, "c:order", "{")
    mine = Claim("token", "instance")
    found = granted(store.claim(first.saga_id, first.ref(0), mine, first.plan.hash))
    assert isinstance(found.values, PartialValues)

    for values in (found.values, found.with_values({"more": 1}).values):
        with pytest.raises(StoreError) as caught:
            values["order"]
        expect_named(caught.value, first.saga_id, "context['order']")


def test_a_key_of_another_kind_names_the_saga(client, store):
    client.set("saga:execution:odd", "text")

    with pytest.raises(UnreadableCheckpoint, match=r"saga 'odd': its record cannot be read.*hash"):
        store.load("odd")


def test_what_the_server_refuses_is_raised_as_it_is(client, valkey):
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">s", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "reader", "-@scripting")
    url = valkey.url(9).replace(f":{valkey.password}@", "reader:s@")
    try:
        with redis.Redis.from_url(url) as reader:
            with pytest.raises(StoreError, match="no permissions to run the 'evalsha'") as caught:
                RedisStore(reader).load("any")
            assert not isinstance(caught.value, UnreadableCheckpoint)
            assert isinstance(caught.value.__cause__, redis.exceptions.NoPermissionError)
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


def test_a_list_leaves_it_out_and_says_so(client, store, caplog):
    bad, good = create(store), create(store)
    damage(client, bad.saga_id, "head", "{")
    app = Celery("listing", broker="memory://", set_as_current=False)
    manager = SagaManager(app, storage=store)

    with caplog.at_level("ERROR", "celery_saga"):
        found = manager.list()

    assert [each.saga_id for each in found] == [good.saga_id]
    assert repr(bad.saga_id) in caplog.text
    app.close()


@pytest.mark.parametrize(("field", "text"), [("head", NEWER), ("k0", "{"), ("plan", None)])
def test_it_can_be_deleted(client, store, field, text):
    first = granted(claim(store, create(store, order=7)))
    damage(client, first.saga_id, field, text)

    assert store.delete(first.saga_id)

    assert store.load(first.saga_id) is None
    assert first.saga_id not in found_by(store, SagaStatus.RUNNING, 10)
    assert first.saga_id not in store.due(10)


def test_what_cannot_be_read_hides_nothing_of_others(client, store):
    store.heartbeat("instance", 60.0, [Reserved("s1~f0~1")])
    client.hset("saga:reserved", "odd", "{")
    client.sadd("saga:claims:instance", b"\xff~f0~1", "s2~f0~1")

    assert store.reserved_by() == {"instance": {Reserved("s1~f0~1")}}
    assert [saga_id for saga_id, _ in store.heartbeat("instance", 60.0, []).claims] == ["s2"]
