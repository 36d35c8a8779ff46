"""For bodies: write down what happened, and wait until the test lets them continue."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

import redis

from celery_saga import saga_info

#: Seconds after which a body that no test has released raises.
TIMEOUT = 240


@lru_cache
def _client(pid: int) -> redis.Redis:
    return redis.Redis.from_url(
        os.environ["SAGA_TEST_JOURNAL"],
        socket_timeout=TIMEOUT + 10,
        client_name=f"body-{pid}",  # so that a test sees where it waits
    )


def note(what: str, **data: Any) -> None:
    """A line in the journal of the saga whose step is running."""
    info = saga_info()
    assert info is not None
    line = {"what": what, "pid": os.getpid(), **vars_of(info), **data}
    _client(os.getpid()).rpush(f"journal:{info.saga_id}", json.dumps(line, default=str))


def bodies_of(step: str) -> int:
    """How many lines the journal of this saga has of that step."""
    info = saga_info()
    assert info is not None
    lines: Any = _client(os.getpid()).lrange(f"journal:{info.saga_id}", 0, -1)
    return sum(json.loads(line)["step"] == step for line in lines)


def is_first_body() -> bool:
    """Whether the running body is the first of its step in its direction that noted its begin."""
    info = saga_info()
    assert info is not None
    lines: Any = _client(os.getpid()).lrange(f"journal:{info.saga_id}", 0, -1)
    found = [json.loads(line) for line in lines]
    me = (info.step, info.direction, "began")
    return sum((line["step"], line["direction"], line["what"]) == me for line in found) == 1


def remember(saga_id: str, what: str, **data: Any) -> None:
    """A line in the journal of a saga, written by a task that is not a step of it."""
    line = {"what": what, "pid": os.getpid(), "step": "", "direction": "", **data}
    _client(os.getpid()).rpush(f"journal:{saga_id}", json.dumps(line, default=str))


def vars_of(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


def wait_at(gate: str) -> None:
    """Block until the test opens the gate."""
    info = saga_info()
    assert info is not None
    if _client(os.getpid()).blpop([f"gate:{info.saga_id}:{gate}"], timeout=TIMEOUT) is None:
        raise AssertionError(f"no test opened {gate!r}")
