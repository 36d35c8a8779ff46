"""What a case of a golden file is played on: a real server, the app, its messages.

A case says what workers, operators and the sweep report. The checkpoint, the messages and the
indexes are what the code writes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from copy import copy
from typing import Any

import redis

from celery_saga import Saga
from celery_saga.core import events
from celery_saga.core.execution import Claim, Failure, SagaExecution, StepRef
from celery_saga.runtime import runtime_of
from tests.golden.app import app

QUEUES = ("celery", "golden")


class Stage:
    """One run of a saga.

    Args:
        client: the server's; its database is the broker and the store.
        name: of the case, and the saga's id.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        client.flushdb()
        self.client, self.saga_id = client, name
        self.orchestrator = copy(runtime_of(app).orchestrator)
        self.messages: list[dict[str, Any]] = []
        self._claims: dict[str, SagaExecution] = {}

    def start(self, saga: Saga, context: Mapping[str, Any], **options: Any) -> Stage:
        saga.apply_async(context, saga_id=self.saga_id, **options)
        return self.collect()

    @property
    def execution(self) -> SagaExecution:
        return self.orchestrator.load(self.saga_id)

    @property
    def now(self) -> float:
        return self.orchestrator.store.now()

    def collect(self) -> Stage:
        """Take the messages that were sent out of their queues."""
        for key in sorted(self.client.scan_iter("*")):  # one list for each priority
            name = key.decode()
            if not name.startswith(QUEUES) or self.client.type(key) != b"list":
                continue
            while (text := self.client.rpop(key)) is not None:
                message = json.loads(text)  # type: ignore[arg-type]
                message["body"] = json.loads(base64.b64decode(message["body"]))
                if message["headers"].get("origin"):
                    message["headers"]["origin"] = "gen1@client"
                self.messages.append({"queue": name, **message})
        return self

    def claim(self, ref: str, retries: int = 0, instance: str = "instance-1") -> Stage:
        """A delivery of a worker claims a step; ``ref`` as ``f1~1``."""
        claim = Claim(f"{ref}/{retries}", instance, retries, node="celery@golden")
        execution = self.execution
        found = self.orchestrator.claim(
            self.saga_id, StepRef.of(ref), claim, execution.plan.hash, execution.run_id
        )
        assert isinstance(found, SagaExecution), found
        return self

    def apply(self, event: Any) -> Stage:
        execution, changed = self.orchestrator.apply(self.saga_id, event)
        assert changed, (event, execution)
        return self.collect()

    def ok(self, ref: str, update: Any = None, remove: tuple[str, ...] = (), **more: Any) -> Stage:
        """The step is claimed, and succeeds."""
        return self.claim(ref).report(ref, update, remove, **more)

    def report(
        self, ref: str, update: Any = None, remove: tuple[str, ...] = (), **more: Any
    ) -> Stage:
        """The step that is claimed succeeds."""
        return self.apply(
            events.StepSucceeded(
                self.now, StepRef.of(ref), f"{ref}/0", update or {}, remove, **more
            )
        )

    def fail(self, ref: str, text: str = "no stock", **more: Any) -> Stage:
        """The step is claimed, and fails."""
        name = self.execution.steps[StepRef.of(ref).path].name
        failure = Failure("builtins.ValueError", text, name, 1)
        self.claim(ref)
        return self.apply(events.StepFailed(self.now, StepRef.of(ref), failure, f"{ref}/0", **more))

    def void(self, ref: str) -> Stage:
        """The worker that has claimed the step is dead."""
        return self.apply(
            events.ClaimVoided(self.now, StepRef.of(ref), f"{ref}/0", "instance-1", True)
        )

    def retry(self, ref: str, revised: Mapping[str, Any] | None = None, wait: float = 5.0) -> Stage:
        """The task of the claimed step asks Celery for a retry."""
        at = self.now
        return self.apply(
            events.StepReleased(at, StepRef.of(ref), f"{ref}/0", 1, at + wait, revised=revised)
        )

    def without_results(self, result_backend: Any) -> Stage:
        """From now on results are published by ``result_backend``, which is unavailable."""
        self.orchestrator.results = result_backend
        return self

    def overdue(self, message: str = "NOT_CHECKED") -> Stage:
        return self.apply(events.Overdue(self.now + 1e6, events.MessageState[message]))

    def signal(self, name: str, payload: Any) -> Stage:
        return self.apply(
            events.SignalReceived(self.now, name, json.dumps(payload), f"call-{name}", "ann")
        )

    def fields(self) -> dict[str, str]:
        """The saga's hash."""
        found: Any = self.client.hgetall(f"saga:execution:{self.saga_id}")
        return {key.decode(): text.decode() for key, text in sorted(found.items())}
