"""Sagas of steps that ran and left no usable answer; of functions, so committed at import."""

from __future__ import annotations

from celery_saga import Saga
from tests.worker.apps import outcomes
from tests.worker.apps.functional import app


def _saga(name: str) -> Saga:
    saga = Saga(f"failing-{name}", app=app)
    saga.local_step(getattr(outcomes, name), name="a").on_failure(outcomes.undo)
    return saga.commit()


SAGAS = {
    name: _saga(name) for name in ("over_soft_limit", "over_hard_limit", "unusable", "bad_context")
}
SAGAS["unusable_context"] = _saga("unusable_context")

_context_undo = Saga("context-undo", app=app)
_context_undo.local_step(outcomes.context_step, name="a").on_failure(outcomes.bad_context_undo)
_context_undo.local_step(outcomes.ends, name="b")
SAGAS["context_undo"] = _context_undo.commit()
