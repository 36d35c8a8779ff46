"""Two engines on two stores, of which each hears the same, and what is to be equal of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_saga.core import events
from celery_saga.core.context.data import Values
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.execution import Claim, Direction, SagaExecution, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Plan, dotted
from celery_saga.core.ports import Store
from celery_saga.core.steps import untouched
from celery_saga.errors import SagaError


class Outlet:
    """A publisher that records what it was asked to send."""

    details = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self.unavailable = False

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        first = events.Dispatch(StepRef(execution.plan.first, Direction.FORWARD, 1))
        return execution, self.message(execution, first)

    def message(self, execution: SagaExecution, command: events.Dispatch) -> Mapping[str, Any]:
        path, direction = command.ref.path, command.ref.direction
        call = call_of(execution, path, direction)
        whole = dict(execution.view(path)) if call.style == "context" else {}
        seen = execution.inputs_of(path, direction)
        given = dict(Values(texts=call.texts(seen)))
        return {"ref": str(command.ref), "with": given | whole}

    def publish(self, message: Mapping[str, Any]) -> None:
        self.sent.append((message["ref"], message["with"]))

    def encode(self, message: Any) -> None:
        return None

    def undelivered(self, task_id: str) -> None: ...

    def reconsider(self) -> None:
        raise AssertionError("there are no envelopes")

    def observe(self, transition: events.Transition) -> None:
        """What was read in part must report the same transitions."""
        kind, step, attempt = transition.subject, transition.step, transition.attempt
        self.sent.append((f"{kind} {step} {attempt} {transition.before} {transition.after}", {}))


class Ends:
    """Stores results where the outlet keeps its messages."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def encode(self, execution: SagaExecution) -> None:
        return None

    def publish(self, execution: SagaExecution) -> None:
        self._outlet.sent.append((execution.status.value, dict(execution.values)))
        if self._outlet.unavailable:
            raise ConnectionError("the result backend is unavailable")


def plain(execution: SagaExecution | None) -> Any:
    """All that does not depend on clocks and on who claimed."""
    if execution is None:
        return None
    left_out = {"claim", "retries", "expected_at", "not_before", "started_at", "ended_at", "log"}
    steps = [
        (
            dotted(path),
            {name: value for name, value in vars(step).items() if name not in left_out},
            # The retry count is kept for as long as a message is out.
            [(each.number, each.direction, each.outcome, each.error) for each in step.log],
            bool(step.claim),
            execution.ref(path) and step.retries,
        )
        for path, step in sorted(execution.steps.items())
        if step != untouched(step.name)
    ]
    notes = [(note.what, note.by, note.detail) for note in execution.history]
    return (
        list(execution.values.items()), steps, execution.status, execution.direction,
        execution.active, execution.journal, execution.revision, execution.held,
        execution.rollback_reason, execution.error, notes,
        execution.wants_result, execution.result_pending, execution.callbacks,
        execution.stuck_count, [each[1:] for each in execution.last_requests],
        [(each.name, each.payload) for each in execution.signals],
        execution.resolved_at is not None,
    )  # fmt: skip


class Twin:
    """One store with its orchestrator, and the claims that were granted on it."""

    def __init__(self, store: Store) -> None:
        self.outlet = Outlet()
        self.orchestrator = Orchestrator(
            store, self.outlet, Ends(self.outlet), store_timeout=0, observer=self.outlet
        )
        self.store = store
        self.read: dict[str, SagaExecution] = {}

    def claim(self, saga_id: str, ref: StepRef, token: str, retries: int, plan: Plan) -> bool:
        claim = Claim(token, f"instance-{token[-1]}", retries)
        answer = self.orchestrator.claim(saga_id, ref, claim, plan.hash)
        if isinstance(answer, SagaExecution):
            self.read[token] = answer
        return isinstance(answer, SagaExecution)

    def apply(self, saga_id: str, event: Any) -> str:
        try:
            self.orchestrator.apply(saga_id, event, self.read.get(getattr(event, "token", "")))
        except SagaError as error:
            return type(error).__name__
        return "applied"
