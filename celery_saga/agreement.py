"""What all processes of an app must have in common, and what is said where they do not.

A saga is started in one process and run in others. These have no other meeting place than the
store, the broker and the tasks' names, so nobody but they can tell that one of them differs.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, signals
from kombu.utils.url import maybe_sanitize_url

from celery_saga.core.execution import StepRef
from celery_saga.definition.builder import SAGAS, SagaDefinition
from celery_saga.errors import SetupError
from celery_saga.runtime import Runtime, installed, only_app

log = logging.getLogger("celery_saga")


def connect() -> None:
    """Have the workers of this process say so if their app runs no sagas."""
    signals.worker_ready.connect(_on_ready, weak=False, dispatch_uid="celery_saga.no_manager")


def broker_kind(app: Celery) -> str:
    """The kind of the app's broker, such as ``redis``; it is not connected to."""
    with app.connection_for_write() as connection:
        return str(connection.transport.driver_type)


def label_of(app: Celery) -> str:
    """What tells an app from others in one store, in words; the same in all of its workers."""
    urls: Any = app.conf.broker_write_url
    urls = urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";")
    broker = ";".join(sorted(str(maybe_sanitize_url(url)).partition("?")[0] for url in urls))
    return f"{app.main or 'without a name'} ({broker}, queue {app.conf.task_default_queue})"


def check_start(runtime: Runtime) -> None:
    """Refuse to start a saga that no worker would find.

    Raises:
        SetupError: it would be kept in this process, and its steps sent to others.
    """
    if runtime.heartbeat is not None or runtime.store.shared:
        return  # a worker in this process looks where we do
    kind = broker_kind(runtime.app)
    if kind != "memory":
        raise SetupError(
            f"saga_store_url = 'memory://' keeps sagas in this process, and the broker is of the "
            f"kind {kind!r}: workers would get the steps of sagas that they cannot find. Use a "
            f"redis:// URL, the same in every process; in a test, task_always_eager = True or the "
            f"broker memory://"
        )


def place_of(runtime: Runtime) -> str:
    """Where this process keeps sagas, in words; without a password."""
    settings = runtime.settings
    url = runtime.storage if runtime.storage is not None else settings.store_url
    if url is None:
        name, url = "result_backend", runtime.app.conf.result_backend
    else:
        name = "saga_store_url" if runtime.storage is None else "SagaManager(storage=)"
    shown = maybe_sanitize_url(url) if isinstance(url, str) else type(url).__name__
    return f"{name} = {shown!r}, saga_key_prefix = {settings.key_prefix!r}"


def tell_of_unknown_saga(runtime: Runtime, saga_id: str, ref: StepRef, task: str) -> None:
    """A delivery's saga is not in the store: it is dropped, and its saga may stand still."""
    log.warning(
        "saga %s: the message of task %s (%s) is dropped, as this worker's store does not have "
        "the saga (%s). It was deleted or has expired; or the process that started it keeps sagas "
        "elsewhere: saga_store_url (by default the result_backend) and saga_key_prefix must be the "
        "same in every process",
        saga_id,
        task,
        ref,
        place_of(runtime),
        extra={"saga_id": saga_id},
    )


def tell_of_unknown_task(saga_id: str, task: str) -> None:
    """A worker got a step whose task it does not have: it is offered again."""
    log.warning(
        "saga %s: this worker does not have the task %s of a step, which is offered again for "
        "saga_unknown_task_grace: have the worker import its module (the app's 'imports' or "
        "'include', or autodiscover_tasks()), or consume other queues",
        saga_id,
        task,
        extra={"saga_id": saga_id},
    )


def _on_ready(sender: Any = None, **kwargs: Any) -> None:
    app = sender.app
    if installed(app) is not None:
        return
    names = sorted({saga.name for saga in SAGAS.every() if _is_of(saga, app)})
    if names:
        log.warning(
            "the app %r of this worker has no SagaManager, and the modules that it imports commit "
            "the sagas %s: it runs their steps as plain tasks, so that the sagas stand still. Add "
            "'sagas = SagaManager(app)' after 'app = Celery(...)'",
            app.main,
            ", ".join(names),
        )


def _is_of(saga: SagaDefinition, app: Celery) -> bool:
    """Whether a saga is the app's; one that names no app is that of the one with a manager."""
    try:
        own: Any = getattr(saga, "own_app", lambda: None)()
    except Exception:  # its tasks belong to several apps: starting it says so
        return False
    return own is app or (own is None and only_app() is None)
