"""Observers of the engine: the log, signals, and a list of observers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from celery.utils.dispatch import Signal

from celery_saga import signals
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide.observed import attempt_of, fields_of_transition, log_fields
from celery_saga.core.decide.repair import command_of, obstacle_of, repairs_of
from celery_saga.core.events import Subject, Transition
from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.ports import Observer
from celery_saga.core.views.notice import NAMES, WITHOUT_DETAILS, notice_of

log = logging.getLogger("celery_saga")

#: The log levels of ends that operators must notice.
_LEVELS = {SagaStatus.COMPENSATED: logging.WARNING, SagaStatus.STUCK: logging.ERROR}

#: The fields of records that do not concern a saga.
_NONE = log_fields("")


def has_fields(record: logging.LogRecord) -> bool:
    """A log filter that accepts all records, and adds the fields that they lack."""
    for name, value in _NONE.items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


log.addFilter(has_fields)


class Observers:
    """Calls several observers. An exception of one is logged, and does not affect the others.

    Args:
        observers: read at each transition, so that more may be registered later.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    @property
    def details(self) -> bool:
        return any([each.details for each in self._observers])

    def observe(self, transition: Transition) -> None:
        for observer in self._observers:
            try:
                observer.observe(transition)
            except Exception:
                extra = fields_of_transition(transition)
                log.warning("an observer of sagas failed", exc_info=True, extra=extra)


class LoggingObserver:
    """Logs alerts and the ends of sagas, and at the level DEBUG all transitions."""

    @property
    def details(self) -> bool:
        return log.isEnabledFor(logging.DEBUG)

    def observe(self, transition: Transition) -> None:
        if transition.subject is Subject.ALERT:
            extra = fields_of_transition(transition)
            log.error("%s: %s", transition.after, transition.text, extra=extra)
        elif transition.subject is Subject.SAGA and transition.execution.settled:
            _log_end(transition.execution)
        elif log.isEnabledFor(logging.DEBUG):
            step = f" {transition.step!r}" if transition.step else ""
            log.debug(
                "saga %s: %s%s: %s -> %s",
                transition.execution.saga_id,
                transition.subject.value,
                step,
                transition.before or "nothing",
                transition.after,
                extra=fields_of_transition(transition),
            )


#: The signal of each notice.
_SIGNALS: Mapping[str, Signal] = {
    name: getattr(signals, name.replace("-", "_")) for name in sorted(NAMES)
}


class SignalObserver:
    """Sends the signals of :mod:`celery_saga.signals`; nothing, while no receiver is connected."""

    @property
    def details(self) -> bool:
        return any(
            [bool(each.receivers) for name, each in _SIGNALS.items() if name not in WITHOUT_DETAILS]
        )

    def observe(self, transition: Transition) -> None:
        if not any([bool(each.receivers) for each in _SIGNALS.values()]):
            return
        notice = notice_of(transition)
        if notice is not None:
            fields = notice._asdict()
            _SIGNALS[fields.pop("name")].send(sender=notice.saga_name, **fields)


def _log_end(execution: SagaExecution) -> None:
    saga_id, name, status = execution.saga_id, execution.name, execution.status
    extra = {**log_fields(saga_id, name), "saga_status": status.value}
    try:
        found = _obstacle(execution) if status in _LEVELS else None
    except NotLoaded:  # the store was unavailable when all of it was to be loaded
        error = execution.error
        found = f"{status.value}: {error}", error.step if error else "", 0
    if found is None:
        log.info("saga %s %s: %s", name, saga_id, status.value, extra=extra)
        return
    text, extra["step"], extra["attempt"] = found
    log.log(_LEVELS[status], "saga %s %s: %s", name, saga_id, text, extra=extra)


def _obstacle(execution: SagaExecution) -> tuple[str, str, int] | None:
    """What blocks a saga, with the commands that apply; the step's name and its attempt."""
    obstacle = obstacle_of(execution)
    if obstacle is None:
        return None
    where = f" at step {obstacle.step!r}" if obstacle.step else ""
    text = f"{execution.status.value}{where}: {obstacle.cause}"
    # The failed attempt is counted as an earlier one.
    tried = [attempt_of(step) - 1 for step in execution.steps if step.name == obstacle.step]
    verbs = list(dict.fromkeys(verb.split()[0] for verb, _ in repairs_of(execution)))
    if verbs:
        command = command_of(verbs[0], execution.saga_id)
        text += f"; repair: {command} (or {', '.join(verbs[1:])})"
    return text, obstacle.step, max(1, *tried) if tried else 0
