"""Golden files as they are read: in both forms of a checkpoint, and on to the end of their saga."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from celery_saga.core import events
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.execution import (
    Claim,
    Direction,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Choice, Wait
from celery_saga.core.ports import Store

FOLDER = Path(__file__).parent

#: A step that was sent, as a line: direction, name, task, and its arguments as plain JSON.
Line = list[Any]


@dataclass(frozen=True)
class Golden:
    """One file.

    Args:
        version: of the checkpoint's form, by the folder of the file.
        name: of the case, and the saga's id.
        index: the store's keys on a Redis server, beside the saga's own: name -> content.
        messages: those that were sent for it, in order: the queue's key, and what was in it.
        raw: the export of the execution; it and all below are empty if there is none.
        fields: its hash on a Redis server.
        result: the text in Celery's result backend, or none.
        continues: what is sent from there on if all of it succeeds.
        ends: the status in the end.
    """

    version: int
    name: str
    index: Mapping[str, Any]
    messages: list[Mapping[str, Any]]
    raw: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    result: str | None = None
    continues: list[Line] = field(default_factory=list)
    ends: str = ""

    def restore(self, client: redis.Redis) -> None:
        """Put it into a server's database, with its place in the indexes."""
        if self.fields:
            client.hset(f"saga:execution:{self.name}", mapping=dict(self.fields))
        for key, content in self.index.items():
            if isinstance(content, list):
                client.sadd(key, *content)
            elif all(isinstance(each, float) for each in content.values()):
                client.zadd(key, content)
            else:
                client.hset(key, mapping=content)

    def send(self, client: redis.Redis, message: Mapping[str, Any]) -> None:
        """Put one of its messages into the queue from which it was taken."""
        queue, body = message["queue"], json.dumps(message["body"]).encode()
        sent = {key: value for key, value in message.items() if key != "queue"}
        sent["body"] = base64.b64encode(body).decode()
        client.lpush(queue, json.dumps(sent))


def files(folder: Path = FOLDER) -> Iterator[Golden]:
    """All of them, of all versions."""
    for path in sorted(folder.glob("v*/*.json")):
        yield Golden(int(path.parent.name[1:]), path.stem, **json.loads(path.read_text()))


class Outlet:
    """A publisher and a publisher of results that keep what is sent, as lines."""

    details = True

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def message(self, execution: SagaExecution, command: events.Dispatch) -> Mapping[str, Any]:
        ref = command.ref
        call = call_of(execution, ref.path, ref.direction)
        given = call.texts(execution.inputs_of(ref.path, ref.direction))
        arguments = {key: json.loads(text) for key, text in given.items()}
        if call.style == "context":
            arguments = json.loads(execution.view(ref.path).json())
        name = execution.plan.name_of(ref.path)
        return {"line": [ref.direction.value, name, call.task, arguments]}

    def first_message(self, execution: SagaExecution) -> Any:
        raise AssertionError("nothing is started")

    def publish(self, message: Any) -> None:
        if not isinstance(message, SagaExecution):
            self.lines.append(message["line"])

    def encode(self, message: Any) -> None:
        return None

    def undelivered(self, task_id: str) -> None:
        return None

    def reconsider(self) -> None:
        raise AssertionError("there are no envelopes")


def run_on(store: Store, saga_id: str) -> tuple[list[Line], SagaExecution]:
    """Continue a saga to its end: every step succeeds, every signal comes, every time has come."""
    outlet = Outlet()
    orchestrator = Orchestrator(store, outlet, outlet, store_timeout=0)
    for number in range(100):
        execution = orchestrator.load(saga_id)
        if execution.settled and not execution.result_pending:
            break
        event = _next_event(store, execution, f"later-{number}")
        _, changed = orchestrator.apply(saga_id, event)
        assert changed, (event, execution)
    return outlet.lines, orchestrator.load(saga_id)


def _next_event(store: Store, execution: SagaExecution, token: str) -> events.Event:
    at = execution.updated_at + 1  # whatever the clock of today says
    if execution.status is SagaStatus.PAUSED:
        return events.ResumeRequested(at, "ann")
    due = [ref for ref in execution.active if execution.steps[ref.path].not_before is None]
    if due:
        return _success(store, execution, due[0], at, token)
    for path, step in execution.steps.items():
        node = execution.plan.at(path)
        if step.status is StepStatus.WAITING and isinstance(node, Wait):
            return events.SignalReceived(at, execution.plan.signal_of(path), '"go"', token)
    times = [step.not_before for step in execution.steps if step.not_before is not None]
    return events.Overdue(max([at, *times, execution.due_at or at]))


def _success(
    store: Store, execution: SagaExecution, ref: StepRef, at: float, token: str
) -> events.Event:
    step, call = execution.steps[ref.path], call_of(execution, ref.path, ref.direction)
    if step.open_request is not None:
        reply = {"status": 200, "content": "null", "related_services": []}
        return events.ReplyReceived(at, ref, step.open_request.token, reply)
    claim = step.claim
    if claim is None:
        claim = Claim(token, "later", step.retries)
        plan, run_id = execution.plan.hash, execution.run_id
        granted = store.claim(execution.saga_id, ref, claim, plan, run_id)
        assert isinstance(granted, SagaExecution), granted
    update = {}
    if ref.direction is Direction.FORWARD and isinstance(call.returns, str):
        update = {call.returns: f"{step.name}'s"}
    answer = True if isinstance(execution.plan.at(ref.path), Choice) else None
    return events.StepSucceeded(at, ref, claim.token, update, answer=answer)
