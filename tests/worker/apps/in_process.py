"""A process that runs the scenarios on a worker of its own, and prints what they left.

Apart from the tests' process, because a worker in it changes Celery's globals and the logging.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.bootsteps import RUN
from celery.contrib.testing.worker import start_worker

from celery_saga import SagaManager
from tests.helpers import wait_for
from tests.worker.apps.sagas import SCENARIOS
from tests.worker.harness import Journal
from tests.worker.ledger import begin, record, records


def worker(app: Celery, pool: str) -> Any:
    return start_worker(
        app, pool=pool, concurrency=1 if pool == "solo" else 4, perform_ping_check=False
    )


def heartbeats() -> int:
    return sum("saga-heartbeat" in thread.name for thread in threading.enumerate())


def main(pool: str) -> None:
    app = Celery("in_process", set_as_current=False)
    app.conf.update(json.loads(os.environ["SAGA_TEST_SETTINGS"]))
    SagaManager(app)
    journal = Journal(os.environ["SAGA_TEST_JOURNAL"])
    with worker(app, pool):
        found: dict[str, Any] = records(journal, app, SCENARIOS)
    with worker(app, pool) as first:
        result = begin(app, "memory")
        # Not with a pool of threads, which swallows what Celery makes of it.
        wait_for(lambda: result.ready() or first.blueprint.state != RUN, 30)
    with worker(app, pool):
        found["memory"] = record(journal, result)
    with suppress(AssertionError):
        wait_for(lambda: not heartbeats(), 20)  # a call of the store continues when its worker ends
    found["heartbeats"] = heartbeats()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
