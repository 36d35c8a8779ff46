"""Finds ``sagas.py`` beside the modules that hold an app's tasks, as Celery finds ``tasks.py``."""

from __future__ import annotations

import importlib
import os
import sys

from celery import Celery


def import_as_a_worker(app: Celery) -> None:
    """Import what a worker of the app imports: its modules with tasks, and those with sagas."""
    app.loader.import_default_modules()
    app.finalize()
    import_sagas(app)


def import_sagas(app: Celery) -> None:
    """Import the ``sagas`` module beside each module whose tasks are registered on ``app``."""
    modules = {getattr(type(task), "__module__", "") for task in list(app.tasks.values())}
    for module in sorted(modules):
        found = sys.modules.get(module)
        folder = os.path.dirname(getattr(found, "__file__", "") or "")
        if module.startswith("celery.") or not os.path.isfile(os.path.join(folder, "sagas.py")):
            continue
        # A task that is declared in a package's __init__ counts for the package itself.
        package = getattr(found, "__package__", "") or ""
        importlib.import_module(f"{package}.sagas" if package else "sagas")
