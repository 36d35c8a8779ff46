"""Which tests ``tox run`` leaves to ``tox run -m ci``, and why.

A test that only needs some worker, or one row of a table, stays in the default run.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent

#: Files, or tests of a file -> what they show in full; the default run shows a part of it.
LEFT_TO_CI = {
    "chaos/*.py": "nodes that are killed, stopped and disconnected at random",
    "worker/test_crash_points*.py": "a kill at each write, in both ways to write",
    "promises/test_06_once_at_a_time.py": "troubles that must cost no body, on all pools",
    "worker/test_messages_lost_and_doubled.py": "each way to lose a message, for 30 seconds too",
    "worker/test_unacknowledged.py": "the same of a worker that returns its messages",
    "promises/test_10_ten_seconds.py": "kills in rows, and how long they cost",
    "worker/test_poison.py": "steps that kill their process again and again",
    "worker/test_races.py": "two that do the same at once, many times over",
    "promises/test_07_late_effects.py": "processes that were stopped, and continue after their end",
    "worker/test_pools.py": "the pools other than prefork",
    "worker/test_same_everywhere.py": "what a body may do, eagerly, in the process, on two servers",
    "worker/test_starts_from_everywhere.py": "starts from threads, forks, greenlets, web servers",
    "worker/test_flower_process.py": "Flower as a process; its pages are in ops/test_flower.py",
    "worker/test_sentinel.py": "failovers of servers under Sentinel",
    "worker/test_barrier.py": "the barrier under workers that die",
    "golden/test_golden_on_workers.py": "a worker that takes over what earlier versions have left",
    "worker/test_deploys.py": "workers of another version, under running sagas",
    "promises/test_03*.py::TestBusyQueue*": "a message that was taken at the last moment",
    "promises/test_03*.py::*started after*": "a worker that comes when another has died",
    "promises/test_03*.py::*cold_shutdown*": "the same after a cold shutdown",
    "worker/test_results_of_sagas.py::TestTrouble::*killed*": "the end published after a kill",
    "worker/test_results_of_sagas.py::TestTrouble::*broker*": "the end published after an outage",
    "worker/test_atomic_publish.py::TestTls*": "a message in the checkpoint's script, over TLS",
    "worker/test_atomic_publish.py::TestUsers*": "the same for users who may not do all",
    "worker/test_atomic_publish.py::TestWhileItRuns*": "the same under changes of the server",
}

#: Files -> their tables, of which the default run has the rows on prefork.
ON_PREFORK = {
    "promises/test_08*.py": "a store or a broker that is unavailable",
    "worker/test_bodies.py": "what a body may do",
    "worker/test_failure_table*.py": "what limits, revokes, a worker and a server may do",
    "worker/test_canvas.py": "sagas in canvases",
    "worker/test_limited_connections.py": "a pool of connections that is used up",
    "worker/test_terminate.py": "a cancel that ends the running body",
}

#: Celery's, that of most users first.
POOLS = ("prefork", "threads", "solo", "gevent")


def is_left_to_ci(file: Path, pool: str = "", test: str = "") -> bool:
    """Whether the default run leaves a file out, its rows on a pool, or one of its tests."""
    if _TESTS not in file.parents:
        return False
    name = file.relative_to(_TESTS).as_posix()
    left = [*LEFT_TO_CI, *(ON_PREFORK if pool in POOLS[1:] else ())]
    names = (name, f"{name}::{test}")
    return any(fnmatch(each, pattern) for pattern in left for each in names)


def pool_of(item: pytest.Item) -> str:
    """The pool that a row names, as the ids ``threads-late`` and ``solo early`` do; or none."""
    row = getattr(item, "callspec", None)
    words = [part.partition(" ")[0] for part in row.id.split("-")] if row is not None else []
    return next((word for word in words if word in POOLS), "")
