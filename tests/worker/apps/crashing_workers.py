"""Workers that are forked by one process: ``python -m tests.worker.apps.crashing_workers JSON``.

Each is a real worker; only the start of the interpreter is saved. The JSON is a list of the
workers' options. With a first argument ``again`` one that has died is followed by another.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from tests.worker.apps.crashing import app

#: What a worker imports as it starts: three quarters of the time that it takes.
_EARLY = (
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.worker.consumer.consumer",
    "celery.worker.worker",
    "kombu.transport.redis",
)


def fork(number: int, options: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        name = f"forked{os.getppid()}-{number}@test"
        always = ["--loglevel", "INFO", "--without-mingle", "--without-gossip"]
        app.worker_main(["worker", "-n", name, *always, *options])
        os._exit(0)
    return pid


for module in _EARLY:
    import_module(module)
app.finalize()
again, given = sys.argv[1] == "again", json.loads(sys.argv[-1])
workers = {fork(number, options): options for number, options in enumerate(given)}
count = len(workers)
while workers:
    pid, _ = os.wait()
    options = workers.pop(pid)
    if again:
        workers[fork(count, options)] = options
        count += 1
