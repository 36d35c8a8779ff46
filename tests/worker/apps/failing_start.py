"""A process that starts a worker of its own which is not set up right, and prints the error.

Apart from the tests' process, because a worker in it changes Celery's globals and the logging.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import threading

from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_saga import SagaManager

#: Seconds after which a start that hangs shows where.
TIMEOUT = 30


def main(pool: str, settings: str) -> None:
    faulthandler.dump_traceback_later(TIMEOUT, exit=True)
    app = Celery("failing", broker="memory://", set_as_current=False)
    app.conf.update(json.loads(settings))
    SagaManager(app)
    try:
        with start_worker(app, pool=pool, perform_ping_check=False):
            print("started")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    names = (thread.name for thread in threading.enumerate())
    print([name for name in names if name.startswith("celery-saga")])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
