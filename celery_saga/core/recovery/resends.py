"""Reports messages that are sent again repeatedly, because no worker claims them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from celery_saga.core.decide.observed import fields_of
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Alert, MessageState, Overdue
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.ports import BrokerInspector
from celery_saga.core.recovery.policy import POLICY

log = logging.getLogger("celery_saga")

#: Name of the alert.
FOREIGN_WORKER = "saga-foreign-worker"

_WHY = {
    MessageState.LOST_WITH_WORKER: "the worker that had it is lost",
    MessageState.MISSING: "no worker has it, and the step is not claimed",
    MessageState.NOWHERE: "it is not routed to a queue",
}


class _Resend(NamedTuple):
    execution: SagaExecution
    ref: StepRef
    queue: str
    message: MessageState
    worker: str


class Resends:
    """The messages that one sweeper has sent again.

    Args:
        inspector: reads the queues, and asks the workers.
        alert: called with each alert.
    """

    def __init__(
        self, inspector: BrokerInspector, alert: Callable[[SagaExecution, Alert], None]
    ) -> None:
        self._inspector, self._alert = inspector, alert
        self._new: list[_Resend] = []
        self._asked: float | None = None
        self._without_plugin: Mapping[str, Collection[str]] = {}

    def record(
        self, before: SagaExecution, after: SagaExecution, event: Overdue, worker: str = ""
    ) -> None:
        """Record the check of a saga.

        Args:
            before: the saga before the check.
            after: the saga after it.
            event: the states of its messages.
            worker: the worker that had the message, if that is known.
        """
        for ref in before.active:
            message = event.state_of(ref)
            if ref not in after.active or message not in _WHY:
                continue
            times = after.steps[ref.path].unclaimed
            if times >= POLICY.resends_logged_from and times > before.steps[ref.path].unclaimed:
                queue = self._inspector.queue_of(after, ref)
                self._new.append(_Resend(after, ref, queue, message, worker))

    def report(self) -> None:
        """Log the resends; at most once a minute, alert on workers that lack the plugin."""
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
            log.warning("the workers could not be asked for the plugin", exc_info=True)
            return
        for queue, workers in self._without_plugin.items():
            for worker in sorted(workers):
                text = (
                    f"worker {worker} consumes queue {queue!r}, to which steps of sagas are sent, "
                    f"and lacks the plugin: the steps that it receives are run outside of their "
                    f"sagas and sent again; add 'SagaManager(app)' to its app, or have it consume "
                    f"other queues"
                )
                self._alert(queues[queue].execution, Alert(FOREIGN_WORKER, text))

    def _log(self, each: _Resend) -> None:
        execution, ref = each.execution, each.ref
        step, workers = execution.steps[ref.path], self._without_plugin.get(each.queue, ())
        who = each.worker or ", ".join(sorted(workers)) or "not known"
        log.warning(
            "saga %s: task %s of step %r is sent again, time %d: %s (queue: %s; worker: %s)",
            execution.saga_id,
            call_of(execution, ref.path, ref.direction).task,
            step.name,
            step.unclaimed,
            _WHY[each.message],
            each.queue or "not known",
            who,
            extra=fields_of(execution, ref),
        )
