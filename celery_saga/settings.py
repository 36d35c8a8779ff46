"""The settings, all of them named ``saga_*`` on the Celery app."""

from __future__ import annotations

from typing import Any

#: Defaults; each may be overridden in the app's configuration like any setting of Celery's.
DEFAULTS: dict[str, Any] = {
    # Where checkpoints live, redis://, rediss:// or redis+socket://; None: in the result backend.
    "saga_store_url": None,
    # Prefix of all Redis keys.
    "saga_key_prefix": "saga:",
    # Seconds for which terminal sagas are kept; 0: for ever; None: as result_expires says.
    "saga_result_expires": None,
    # How often a step whose outcome is unknown is run again.
    "saga_max_redeliveries": 3,
    # Attempts at a compensation before it has failed for good, unless the step says otherwise.
    "saga_compensation_max_attempts": 5,
    # Seconds for which a task that no worker knows is offered again.
    "saga_unknown_task_grace": 600.0,
    # Seconds for which a step's report is repeated while the store is unavailable.
    "saga_store_timeout": 60.0,
    # Seconds between two heartbeats of a worker, and after which a silent one counts as dead.
    "saga_heartbeat": 2.0,
    "saga_heartbeat_ttl": 6.0,
    # How many sagas one pass of the sweep looks at.
    "saga_sweep_limit": 1000,
    # Characters of all values of a context as JSON: more is refused; None: no limit.
    "saga_context_limit": 4 * 1024 * 1024,
    # Up to so many, a step that takes the whole context gets it in its message; above, a reference.
    "saga_context_inline_limit": 64 * 1024,
    # Keep each step's result as a Celery result too.
    "saga_store_step_results": False,
    # Words: values under keys that contain one of them are masked wherever they are shown.
    "saga_mask_keys": None,
}
