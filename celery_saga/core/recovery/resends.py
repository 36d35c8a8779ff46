"""Tells of messages that are sent again and again, as nobody claims them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from celery_saga.core.decide.observed import fields_of
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Alert, MessageState
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.ports import BrokerInspector
from celery_saga.core.recovery.policy import POLICY

log = logging.getLogger("celery_saga")

#: Name of the alert.
FOREIGN_WORKER = "saga-foreign-worker"

_WHY = {
    MessageState.LOST_WITH_WORKER: "the worker that had it is gone",
    MessageState.MISSING: "nobody has it, and nobody has claimed the step",
    MessageState.NOWHERE: "it reaches no queue",
}


class _Resend(NamedTuple):
    execution: SagaExecution
    ref: StepRef
    queue: str
    message: MessageState
    holder: str


class Resends:
    """What one sweeper has sent again.

    Args:
        inspector: knows the queues, and asks the workers.
        alert: takes the alerts.
    """

    def __init__(
        self, inspector: BrokerInspector, alert: Callable[[SagaExecution, Alert], None]
    ) -> None:
        self._inspector, self._alert = inspector, alert
        self._new: list[_Resend] = []
        self._asked: float | None = None
        self._without_plugin: Mapping[str, Collection[str]] = {}

    def note(
        self, before: SagaExecution, after: SagaExecution, message: MessageState, holder: str = ""
    ) -> None:
        """Note that a saga was checked.

        Args:
            before: what it was then.
            after: what it is now.
            message: what was found of its message.
            holder: the worker that had it, if that is known.
        """
        ref = before.first_active
        if ref is None or after.first_active != ref or message not in _WHY:
            return
        times = after.steps[ref.step].unclaimed
        if times >= POLICY.resends_logged_from and times > before.steps[ref.step].unclaimed:
            queue = self._inspector.queue_of(after, ref)
            self._new.append(_Resend(after, ref, queue, message, holder))

    def tell(self) -> None:
        """Log them; and once a minute ask who consumes their queues and does not know of sagas."""
        new, self._new = self._new, []
        now = time.monotonic()
        asked_lately = self._asked is not None and (
            now - self._asked < POLICY.workers_asked_interval
        )
        if new and not asked_lately:
            self._asked = now
            self._ask(new)
        for each in new:
            self._log(each)

    def _ask(self, new: list[_Resend]) -> None:
        queues = {each.queue: each for each in new if each.queue}
        if not queues:
            return
        try:
            self._without_plugin = self._inspector.workers_without_plugin(queues)
        except Exception:
            log.warning("the workers could not be asked whether they know of sagas", exc_info=True)
            return
        for queue, workers in self._without_plugin.items():
            for worker in sorted(workers):
                text = (
                    f"worker {worker} consumes queue {queue!r}, on which steps of sagas are sent, "
                    f"and does not know of sagas: what it takes is run without them and sent "
                    f"again; add 'SagaManager(app)' to its app, or have it consume other queues"
                )
                self._alert(queues[queue].execution, Alert(FOREIGN_WORKER, text))

    def _log(self, each: _Resend) -> None:
        execution, ref = each.execution, each.ref
        step, workers = execution.steps[ref.step], self._without_plugin.get(each.queue, ())
        who = each.holder or ", ".join(sorted(workers)) or "not known"
        log.warning(
            "saga %s: task %s of step %r is sent again, time %d: %s (queue: %s; worker: %s)",
            execution.saga_id,
            call_of(execution, ref.step, ref.direction).task,
            step.name,
            step.unclaimed,
            _WHY[each.message],
            each.queue or "not known",
            who,
            extra=fields_of(execution, ref),
        )
