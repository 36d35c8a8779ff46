"""Sets up a Celery app for sagas, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_saga.definition import functions
from celery_saga.runtime import Runtime, install
from celery_saga.settings import DEFAULTS
from celery_saga.worker import receivers, remote_control
from celery_saga.worker.bootstep import RecoveryStep
from celery_saga.worker.hook import hook, verify
from celery_saga.worker.remote.requests import ASYNCHRONOUS
from celery_saga.worker.tasks import declare_tasks


def enabled(app: Celery, storage: Any = None) -> Runtime:
    """Return the app's runtime; the first call makes it and makes the app ready for sagas.

    Args:
        storage: a store, or the URL of one; None: what the app's settings say.

    Raises:
        SetupError: it was made with another storage, or ``storage`` is not a store.
    """
    return install(app, storage, set_up, verify)


def set_up(app: Celery) -> None:
    """Make an app ready for sagas: settings, hook, tasks, recovery, signals, remote control."""
    if getattr(app, "configured", False):
        _add_defaults(app, app.conf)
    # At each call, because a later config_from_object makes a new configuration.
    app.on_after_configure.connect(_add_defaults, weak=False)
    hook(app)
    declare_tasks(app)
    app.steps["worker"].add(RecoveryStep)
    receivers.connect()
    remote_control.connect()
    names: set[str] = set()

    def declare(name: str, function: Callable[..., Any]) -> None:
        if name not in names:  # several sagas may use one function
            names.add(name)
            _as_task(app, name, function)

    functions.subscribe(declare)
    if getattr(app, "finalized", False):
        verify(app)
    app.on_after_finalize.connect(_verify, weak=False)


def _add_defaults(sender: Celery, source: Any, **kwargs: Any) -> None:
    # What add_defaults gets precedes a configuration module, so only missing settings are added.
    source.add_defaults({key: value for key, value in DEFAULTS.items() if key not in source})


def _verify(sender: Celery, **kwargs: Any) -> None:
    verify(sender)


def _as_task(app: Celery, name: str, function: Callable[..., Any]) -> None:
    """Declare a plain function as a task of the app, under the name by which sagas call it."""
    wire_name, name = name, functions.task_name(name, app.main)

    def run(context: Any, /, *response: Any, **parameters: Any) -> Any:
        # Looked up at each call: its module may have been imported a second time.
        return (functions.known(wire_name) or function)(context, *response, **parameters)

    if function.__name__.isidentifier():  # Celery makes code from it; "<lambda>" is not a name
        run.__name__ = function.__name__
    setattr(run, ASYNCHRONOUS, inspect.iscoroutinefunction(function))
    run.__doc__, run.__module__ = function.__doc__, function.__module__
    declare: Any = app.task
    declare(run, name=name, shared=False, typing=False)
