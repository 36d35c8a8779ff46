"""Processes that ask something of sagas, and die at it.

One is forked for each of the list of JSON ``[[what, saga id, text], ...]``, for which see
:mod:`tests.worker.apps.asking`. Prints a list of their exit codes.
"""

from __future__ import annotations

import json
import os
import sys

from tests.worker.apps import crashing
from tests.worker.apps.asking import ask
from tests.worker.apps.crashing import app

crashing.role = "client "


def fork(what: str, saga_id: str, text: str) -> int:
    pid = os.fork()
    if pid == 0:
        if what == "take in":
            crashing.outside = "TakenIn"
        ask(app, what, saga_id, text)
        os._exit(0)
    return pid


pids = [fork(*each) for each in json.load(sys.stdin)]
codes = dict(os.waitpid(pid, 0) for pid in pids)
print(json.dumps([os.waitstatus_to_exitcode(codes[pid]) for pid in pids]))
