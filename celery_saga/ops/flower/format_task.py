"""For Flower's own list of tasks: ``format_task = celery_saga.ops.flower.format_task.format_task``.

It goes into ``flowerconfig.py``. The names then show which tasks are steps of sagas, and which are
compensations. Flower gives it a copy of each task that it shows.
"""

from __future__ import annotations

import ast
from typing import Any


def format_task(task: Any) -> Any:
    """The task with the name of its saga and step: ``charge (checkout: charge)``."""
    try:
        shown = ast.literal_eval(task.kwargs or "{}")
    except (ValueError, SyntaxError, TypeError):
        return task  # cut off, or the values have no literals
    if isinstance(shown, dict) and "saga_id" in shown and "step" in shown:
        what = "compensates" if shown.get("compensation") else shown.get("saga", "saga")
        task.name = f"{task.name} ({what}: {shown['step']})"
    return task
