"""The store on Redis or Valkey: one hash a saga, every change one script.

Durability is the server's: see the README for what its persistence settings mean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, repeat
from typing import Any, NoReturn

import redis

from celery_saga.core.checkpoint import SCHEMA_VERSION
from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import values_of
from celery_saga.core.execution import (
    TERMINAL,
    Claim,
    Direction,
    SagaExecution,
    SagaStatus,
    StepRef,
)
from celery_saga.core.plan import Path, Plan, dotted
from celery_saga.core.ports import Envelope, Found, Refused
from celery_saga.core.state import replace
from celery_saga.errors import (
    PublishRefused,
    StoreError,
    StoreUnavailable,
    UnreadableCheckpoint,
    UnsupportedCheckpoint,
)
from celery_saga.stores.redis import payload, scripts
from celery_saga.stores.redis.faults import fault_of
from celery_saga.stores.redis.fields import (
    Part,
    changes,
    creation,
    load_full,
    load_partial,
    part_for,
)
from celery_saga.stores.redis.instances import RedisInstances, guarded
from celery_saga.stores.redis.pool import endpoint_of, hold, let_go, when_free

#: While it waits for the end of a saga, the store also looks by itself, in case a notice was lost.
POLL_INTERVAL = 2.0

#: Where it has no connection for notices, it looks after so many seconds; the last repeats.
POLL_DELAYS = (0.02, 0.05, 0.1, 0.2, 0.3)

#: Characters of a context above which it is not read at each look, but when the saga is settled.
LARGE = 16_384

#: Plans that are kept by their hash, to read no more of a saga than its plan says is needed.
KNOWN_PLANS = 512


class RedisStore(RedisInstances):
    """Keeps executions on one Redis server.

    Args:
        client: a redis-py client, or a callable that returns one; it must answer with bytes. It is
            asked once in each thread and process.
        prefix: of every key.
        expires: seconds for which terminal sagas are kept; ``None``: for ever.
        codec: reads the values of contexts.
    """

    def __init__(
        self,
        client: redis.Redis | Callable[[], redis.Redis],
        *,
        prefix: str = "saga:",
        expires: float | None = 86400.0,
        codec: Codec = JSON,
    ) -> None:
        super().__init__(client, prefix)
        self._codec = codec
        self._expires = "" if expires is None else str(max(1, int(expires)))
        self._plans: dict[str, _KnownPlan] = {}

    def _saga(self, saga_id: str) -> str:
        return self._key("execution", saga_id)

    def _indexes(self, status: SagaStatus, name: str) -> list[str]:
        return [self._key("status", status.value), self._key("name", name, status.value)]

    def create(
        self,
        execution: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
        replaces: SagaExecution | None = None,
    ) -> tuple[SagaExecution, bool]:
        due = "" if execution.due_at is None else repr(execution.due_at)
        ttl = self._expires if _is_over(execution) else ""
        carried = payload.payloads(batch, self.endpoint) if batch else []
        answer = self._run_on(
            execution.saga_id,
            scripts.CREATE,
            [
                *(token, execution.saga_id, due, ttl, *_identity(replaces)),
                *_lists(
                    creation(execution),
                    payload.messages(carried, self._database),
                    self._indexes(execution.status, execution.name),
                    self._indexes(replaces.status, replaces.name) if replaces else [],
                ),
            ],
            self._key("due"),
        )
        _not_refused(answer)
        if answer[0] == 1:
            return replace(execution, revision=1), True
        return self._whole(execution.saga_id, answer[1]), False

    def deliver(self, batch: Sequence[Envelope]) -> None:
        messages = payload.messages(payload.payloads(batch, self.endpoint), self._database)
        if messages:
            _not_refused(self._run(scripts.PUSH, [], _lists(messages)))

    @property
    def shared(self) -> bool:
        return True

    @cached_property
    def endpoint(self) -> str:
        return endpoint_of(self.client.connection_pool)

    @cached_property
    def _database(self) -> int:
        return int(self.client.connection_pool.connection_kwargs.get("db") or 0)

    def _run_on(self, saga_id: str, source: str, args: list[Any], *keys: str) -> Any:
        """The answer of a script about one saga; ``keys``: others that it needs."""
        try:
            return self._run(source, [self._saga(saga_id), *keys], args)
        except StoreUnavailable:
            raise
        except StoreError as error:
            self._explain(saga_id, error)

    def _whole(
        self, saga_id: str, found: Sequence[Any], plan: Plan | None = None, context: bool = True
    ) -> SagaExecution:
        try:
            return load_full(saga_id, found, plan, context, self._codec)
        except Exception as error:
            self._explain(saga_id, error)

    def _explain(self, saga_id: str, error: Exception) -> NoReturn:
        """Raise what names the field of a saga that cannot be read, if one was the trouble.

        What the server says of itself (its permissions, its memory) is raised as it is.
        """
        found: Exception | None = None
        try:
            found = fault_of(saga_id, self._ask(lambda client: client.hgetall(self._saga(saga_id))))
        except StoreUnavailable:
            raise
        except StoreError as second:
            if "WRONGTYPE" in str(second):
                found = UnreadableCheckpoint(saga_id, "", f"its key holds no hash: {second}")
        if found is None and not isinstance(error, StoreError):
            found = UnreadableCheckpoint(saga_id, "", f"{type(error).__name__}: {error}")
        if found is None:
            raise error
        raise found from error

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        found = self._run_on(saga_id, scripts.LOAD, ["" if context else "1"])
        return self._whole(saga_id, found, context=context) if found else None

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        known = self._plans.get(plan or "")
        part = known.part(ref) if known else None
        answer = self._run_on(
            saga_id,
            scripts.CLAIM,
            [
                dotted(ref.path),
                str(ref),
                claim.retries,
                claim.token,
                claim.instance,
                self._prefix,
                "1" if known else "",
                run_id,
                claim.enclosing_task,
                claim.node,
                *(part.fields if part else ()),
            ],
        )
        if known and part and type(answer) is bytes:
            try:
                found, *texts = answer.decode().split("\0")
                seconds, micros, *records = json.loads(found)
                self._set_clock(seconds, micros)
                return load_partial(saga_id, known.plan, part, records, texts, self._codec)
            except Exception as error:
                self._explain(saga_id, error)
        if answer[0] == b"newer":
            raise UnsupportedCheckpoint(saga_id, int(answer[1]), SCHEMA_VERSION)
        if answer[0] != b"ok":
            owner = Claim(**json.loads(answer[1])) if answer[1] else None
            return Refused(answer[0].decode(), owner)
        self._set_clock(*json.loads(answer[1]))
        whole = self._whole(saga_id, answer[2], known.plan if known else None)
        if known is None:
            self._know(whole.plan)
        return whole

    def _know(self, plan: Plan) -> None:
        if len(self._plans) >= KNOWN_PLANS:
            self._plans.clear()
        self._plans[plan.hash] = _KnownPlan(plan)

    def save(
        self,
        before: SagaExecution,
        after: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
    ) -> SagaExecution | None:
        change = changes(before, after)
        carried = payload.payloads(batch, self.endpoint) if batch else []
        moved = before.status is not after.status
        terminal = after.status in TERMINAL
        ttl = ""
        if _is_over(after) is not _is_over(before):
            ttl = self._expires if _is_over(after) else "persist"
        ended = [part for claim, ref in change.ended_claims for part in (claim.instance, str(ref))]
        due = ""
        if before.due_at != after.due_at:
            due = "-" if after.due_at is None else repr(after.due_at)
        notify = self._key("settled", after.saga_id) if moved and after.settled else ""
        keep = self._expires if terminal else ""
        answer = self._run_on(
            after.saga_id,
            scripts.SAVE,
            [
                *(self._prefix, due, ttl, notify, keep, before.run_id),
                *_lists(
                    ["rev", before.revision + 1, "w", token, *change.set],
                    payload.messages(carried, self._database),
                    change.delete,
                    ended,
                    change.places,
                    payload.result(carried),
                    self._indexes(before.status, before.name) if moved else [],
                    self._indexes(after.status, after.name) if moved else [],
                ),
            ],
            self._key("due"),
        )
        _not_refused(answer)
        return replace(after, revision=before.revision + 1) if answer[0] == 1 else None

    def delete(self, saga_id: str, revision: int | None = None) -> bool:
        try:
            found = self.load(saga_id, context=False)
            if found is None:
                return False
            indexes = self._indexes(found.status, found.name)
        except UnreadableCheckpoint:  # the indexes by name forget it in their own time
            indexes = [self._key("status", status.value) for status in SagaStatus]
        wanted = "" if revision is None else revision
        args = [saga_id, wanted, self._key("claims", ""), *indexes]
        return bool(self._run_on(saga_id, scripts.DELETE, args, self._key("due")))

    def due(self, limit: int) -> list[str]:
        found = self._run(scripts.DUE, [self._key("due")], [limit, self._saga("")])
        return [saga_id.decode(errors="replace") for saga_id in found]

    def find(
        self, status: SagaStatus, limit: int, name: str | None = None, until: float | None = None
    ) -> list[Found]:
        key, newest = self._index(status, name), "+inf" if until is None else until
        found = self._ask(
            lambda client: client.zrevrangebyscore(key, newest, "-inf", 0, limit, withscores=True)
        )
        return [Found(since, saga_id.decode()) for saga_id, since in found]

    def count(self, status: SagaStatus, name: str | None = None) -> int:
        key = self._index(status, name)
        return int(self._ask(lambda client: client.zcard(key)))

    def _index(self, status: SagaStatus, name: str | None) -> str:
        every, named = self._indexes(status, name or "")
        return every if name is None else named

    def wait(self, saga_id: str, timeout: float) -> SagaExecution | None:
        until, large = time.monotonic() + timeout, False
        with guarded(), self._notices(saga_id) as pause:
            while True:
                found = self.load(saga_id, context=not large)
                left = until - time.monotonic()
                if found is None or found.settled or left <= 0:
                    return self.load(saga_id) if large else found
                large = values_of(found.values).size > LARGE
                pause(left)

    @contextmanager
    def _notices(self, saga_id: str) -> Iterator[Callable[[float], None]]:
        """What waits for a notice, for so many seconds at most.

        It holds a connection for all that time: from a pool that has few, none is taken.
        """
        client: Any = self.client
        pool = client.connection_pool
        if not hold(pool):
            yield _pauses()
            return
        try:
            with client.pubsub(ignore_subscribe_messages=True) as notices:
                when_free(lambda: notices.subscribe(self._key("settled", saga_id)))
                notices.get_message(timeout=POLL_INTERVAL)  # the subscription is active now
                yield lambda left: notices.get_message(timeout=min(left, POLL_INTERVAL))
        finally:
            let_go(pool)


def _pauses() -> Callable[[float], None]:
    """Pauses that grow."""
    steps = chain(POLL_DELAYS, repeat(POLL_DELAYS[-1]))
    return lambda left: time.sleep(min(left, next(steps)))


class _KnownPlan:
    """A plan, and what the claims of its steps read."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._parts: dict[tuple[Path, Direction], Part | None] = {}

    def part(self, ref: StepRef) -> Part | None:
        where = (ref.path, ref.direction)
        if where not in self._parts:
            self._parts[where] = part_for(self.plan, ref)
        return self._parts[where]


def _identity(replaced: SagaExecution | None) -> tuple[str, str]:
    """Revision and run id of an execution, as the script that creates one compares them."""
    return ("", "") if replaced is None else (str(replaced.revision), replaced.run_id)


def _is_over(execution: SagaExecution) -> bool:
    """Whether no caller waits for it any more; those that are not notified yet must not miss it."""
    return execution.status in TERMINAL and not execution.result_pending


def _lists(*parts: Sequence[Any]) -> list[Any]:
    """Lists as a script takes them: each its length, then its items; no empty ones at the end."""
    found: list[Any] = []
    last = max([number for number, part in enumerate(parts, 1) if part], default=0)
    for part in parts[:last]:
        found.append(len(part))
        found += part
    return found


def _not_refused(answer: Sequence[Any]) -> None:
    if answer[0] == -1:
        raise PublishRefused(f"the server refused an envelope: {answer[1].decode()}")
