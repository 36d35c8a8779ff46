"""The remote control command ``celery inspect saga``, by which a worker reports on itself.

It runs in the thread that consumes, so it reports what it knows and never waits for a store. A
worker without the plugin does not have the command.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

from celery import Celery
from celery.worker.control import inspect_command

from celery_saga import _version
from celery_saga.definition.contexts import known_models
from celery_saga.runtime import installed
from celery_saga.settings import PREFIX, Settings

#: The name of the command.
COMMAND = "saga"

#: The worker's own settings that are reported. None of them holds a secret.
REPORTED_SETTINGS = ("heartbeat", "heartbeat_ttl", "key_prefix")

#: Celery's setting that is reported.
SHUTDOWN = "worker_soft_shutdown_timeout"


def versions() -> dict[str, str]:
    """Return the versions that this process runs: package -> version."""
    return {
        "celery_saga": _version.__version__,
        "celery": version("celery"),
        "kombu": version("kombu"),
        "python": platform.python_version(),
    }


def reported_settings(app: Celery) -> dict[str, Any]:
    """Return the reported settings of ``app``: plain numbers and texts."""
    settings, _ = Settings.read(app.conf)
    reported = {PREFIX + name: getattr(settings, name) for name in REPORTED_SETTINGS}
    return {**reported, SHUTDOWN: app.conf[SHUTDOWN]}


def connect() -> None:
    """Register the command in the workers of this process."""
    inspect_command(name=COMMAND)(report)


def report(state: Any, **kwargs: Any) -> dict[str, Any]:
    """Report how this worker runs sagas: its instance, versions, settings and clock."""
    runtime = installed(state.app)
    if runtime is None:
        return {"error": f"the Celery app {state.app.main!r} has no SagaManager here"}
    return {
        "instance": runtime.instance,
        "heartbeat": runtime.heartbeat is not None,
        "pool": type(state.consumer.pool).__module__.rpartition(".")[2],
        "versions": versions(),
        "settings": reported_settings(state.app),
        "models": sorted(known_models()),
        "clock": time.time(),
    }
