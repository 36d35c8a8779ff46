"""What a worker says of itself when it is asked over the broker: ``celery inspect saga``.

It is asked in the thread that consumes, so it tells what it knows and never waits for a store. A
worker without the plugin does not know the question.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

from celery import Celery
from celery.worker.control import inspect_command

from celery_saga import _version
from celery_saga.runtime import installed
from celery_saga.settings import PREFIX, Settings

#: The question's name.
COMMAND = "saga"

#: The worker's own settings that are told. None of them holds a secret.
REPORTED_SETTINGS = ("heartbeat", "heartbeat_ttl", "key_prefix")

#: Celery's setting that is told.
SHUTDOWN = "worker_soft_shutdown_timeout"


def versions() -> dict[str, str]:
    """What this process runs: package -> version."""
    return {
        "celery_saga": _version.__version__,
        "celery": version("celery"),
        "kombu": version("kombu"),
        "python": platform.python_version(),
    }


def reported_settings(app: Celery) -> dict[str, Any]:
    """The settings that are told, as ``app`` has them: plain numbers and texts."""
    settings, _ = Settings.read(app.conf)
    told = {PREFIX + name: getattr(settings, name) for name in REPORTED_SETTINGS}
    return {**told, SHUTDOWN: app.conf[SHUTDOWN]}


def connect() -> None:
    """Have the workers of this process know the question."""
    inspect_command(name=COMMAND)(answer)


def answer(state: Any, **kwargs: Any) -> dict[str, Any]:
    """How this worker runs sagas: its instance, its versions and settings, its clock."""
    runtime = installed(state.app)
    if runtime is None:
        return {"error": f"the Celery app {state.app.main!r} has no SagaManager here"}
    return {
        "instance": runtime.instance,
        "heartbeat": runtime.heartbeat is not None,
        "pool": type(state.consumer.pool).__module__.rpartition(".")[2],
        "versions": versions(),
        "settings": reported_settings(state.app),
        "clock": time.time(),
    }
