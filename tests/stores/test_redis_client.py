"""Script calls over connections of our own."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ReadOnlyError, ResponseError

from celery_saga.stores.redis.client import Wire, packed, packed_here
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for

ECHO = "return {KEYS[1], ARGV[1]}"


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Any:
    name = f"wire-{uuid.uuid4().hex}"
    with redis.Redis.from_url(valkey.url(9), client_name=name) as client:
        yield client


def connections(client: Any) -> int:
    """How many there are from this test; asked over another one."""
    options = client.connection_pool.connection_kwargs
    with redis.Redis(**{name: options.get(name) for name in ("host", "port", "password")}) as other:
        return sum(line["name"] == options["client_name"] for line in other.client_list())


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False)), min_size=1))
def test_a_command_is_packed_as_redis_py_packs_it(parts: list[Any]) -> None:
    connection = redis.connection.Connection()

    expected = b"".join(connection.pack_command("EVALSHA", *parts))
    assert packed(["EVALSHA", *parts]) == packed_here(["EVALSHA", *parts]) == expected


def test_an_answer(client: Any) -> None:
    wire = Wire(lambda: client)

    assert wire.run(ECHO, ["k"], ["é\r\n$1"]) == [b"k", "é\r\n$1".encode()]


def test_a_server_that_forgot_its_scripts(client: Any) -> None:
    wire = Wire(lambda: client)
    wire.run(ECHO, ["k"], [1])

    client.script_flush()

    assert wire.run(ECHO, ["k"], [2]) == [b"k", b"2"]


def test_a_connection_to_a_master_that_is_none_any_more_is_not_kept() -> None:
    """The name or address leads to another server by now, and this one lives on as its replica."""
    name = "demoted"
    with (
        EmbeddedValkey() as server,
        redis.Redis.from_url(server.url(), client_name=name) as client,
    ):
        wire = Wire(lambda: client)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: wire.call("SET", "key", number), range(40)))
        client.replicaof("127.0.0.1", "1")

        with pytest.raises(ReadOnlyError):
            wire.run("return redis.call('SET', KEYS[1], 1)", ["key"], [])

        # The pool itself has one with which the test has asked; it may be used by others.
        wait_for(lambda: connections(client) == 1, description="the test's own one")


def test_a_connection_that_was_closed_meanwhile(client: Any) -> None:
    wire = Wire(lambda: client)
    wire.run(ECHO, ["k"], [1])

    client.client_kill_filter(_type="normal", skipme=True)

    assert wire.run(ECHO, ["k"], [2]) == [b"k", b"2"]


def test_an_error_of_the_script_is_raised_and_the_connection_is_used_again(client: Any) -> None:
    wire = Wire(lambda: client)
    for _ in range(3):
        with pytest.raises(ResponseError, match="on purpose"):
            wire.run("return redis.error_reply('on purpose')", [], [])

    assert wire.run(ECHO, ["k"], [2]) == [b"k", b"2"]
    assert connections(client) == 1


def test_threads_do_not_get_each_others_answers(client: Any) -> None:
    wire = Wire(lambda: client)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: wire.run(ECHO, ["k"], [n])[1], range(500)))

    assert found == [str(n).encode() for n in range(500)]


def test_a_forked_child_does_not_get_the_parents_answers(client: Any) -> None:
    wire = Wire(lambda: client)
    wire.run(ECHO, ["k"], ["before"])

    def right(who: str) -> bool:
        return all(wire.run(ECHO, [who], [n]) == [who.encode(), b"%d" % n] for n in range(300))

    child = os.fork()
    if child == 0:
        os._exit(0 if right("child") else 1)

    assert right("parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_closing_gives_connections_back(client: Any) -> None:
    wire = Wire(lambda: client)
    wire.run(ECHO, ["k"], [1])
    assert connections(client) == 1

    wire.close()

    wait_for(lambda: connections(client) == 0)
