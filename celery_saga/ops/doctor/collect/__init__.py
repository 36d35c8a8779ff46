"""Gathers the facts from the store, the broker and, over it, the workers.

Each has a limited time to reply, and what does not reply is a fact too. Nothing is changed but a
key in the broker that lives for a moment: the probe of the atomic publish
(:mod:`celery_saga.messaging.redis.publish`).
"""

from __future__ import annotations

from celery import Celery
from celery.backends.rpc import RPCBackend

from celery_saga.core.plan import Call
from celery_saga.definition.discovery import import_as_a_worker
from celery_saga.messaging.outcome import START
from celery_saga.messaging.routing import queue_of
from celery_saga.ops.doctor.collect.broker import gather_broker
from celery_saga.ops.doctor.collect.required_tasks import gather_required_tasks, gather_task_timings
from celery_saga.ops.doctor.collect.servers import once
from celery_saga.ops.doctor.collect.store import gather_store
from celery_saga.ops.doctor.facts import Facts
from celery_saga.runtime import runtime_of
from celery_saga.settings import Settings, misspelt
from celery_saga.worker.remote_control import reported_settings, versions


def gather(app: Celery, timeout: float, limit: int) -> Facts:
    """Gather all that the checks examine.

    Args:
        app: the Celery app; its modules are imported, as a worker does.
        timeout: seconds that workers have to reply.
        limit: live sagas that are read.

    Raises:
        SetupError: the app has no :class:`~celery_saga.SagaManager`.
    """
    runtime = runtime_of(app)
    import_as_a_worker(app)
    settings, wrong = Settings.read(app.conf)
    stored = gather_store(runtime, limit)
    broker = gather_broker(runtime, None if stored.facts.problem else runtime.store, timeout)
    required, broken = gather_required_tasks(runtime, stored.live)
    return Facts(
        app=app.main or "",
        settings={**reported_settings(app), "saga_sweep_limit": settings.sweep_limit},
        wrong_settings=wrong,
        misspelt_settings=misspelt(app.conf),
        versions=versions(),
        start_queue=queue_of(app, Call(START)),
        results_private=isinstance(app.backend, RPCBackend),
        store=stored.facts,
        broker=broker.facts,
        servers=once(server for server in (stored.server, broker.server) if server),
        workers=broker.workers,
        required=required,
        timings=gather_task_timings(app),
        sagas=stored.sagas,
        broken=broken,
    )
