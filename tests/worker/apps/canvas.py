"""Sagas that canvases and beat start by their names, and the tasks round them."""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache

import redis

from celery_saga import AbortSaga, Saga
from tests.worker.apps.functional import app
from tests.worker.apps.steps import compensation, late


@lru_cache
def _client(pid):
    return redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])


def record(tag, **what):
    """Write down for the test that goes by this tag."""
    _client(os.getpid()).rpush(f"recorded:{tag}", json.dumps(what, default=str))


@app.task(name="canvas.add", shared=False)
def add(n, step=1):
    record(f"add {n}", n=n)
    return {"n": n + step}


@app.task(name="canvas.take_back", shared=False)
def take_back():
    pass


@app.task(name="canvas.decline", shared=False)
def decline(n, limit=100):
    if n > limit:
        raise AbortSaga(f"{n} is too much")


@app.task(name="canvas.refuse", shared=False)
def refuse():
    raise ValueError("will not be compensated")


@app.task(name="canvas.report", shared=False, bind=True)
def report(self, *results, tag, **more):
    """Writes down what it is called with, and returns what it got."""
    request = self.request
    record(
        tag,
        results=results,
        id=request.id,
        root_id=request.root_id,
        parent_id=request.parent_id,
        priority=(request.delivery_info or {}).get("priority"),
        stamps=request.stamps,
        **more,
    )
    return results[0] if results else None


@app.task(name="canvas.complain", shared=False)
def complain(request, error, traceback, tag):
    """An errback of the new style, which runs where the failure is published."""
    record(tag, id=request.id, error=repr(error), kind=type(error).__name__)


@app.task(name="canvas.fail", shared=False)
def fail(*results, **more):
    raise KeyError("not a saga")


@app.task(name="canvas.context", shared=False)
def context(value=None):
    """Something that may come before a saga in a chain."""
    return value


@app.task(name="canvas.nap", shared=False)
def nap(seconds):
    time.sleep(seconds)


@app.task(name="canvas.start", shared=False)
def start(n):
    """Starts a saga as any task may."""
    return counting.delay(n=n).id


#: n + 2, or compensated if that is above ``limit``.
counting = Saga("canvas counting", app=app)
counting.local_step(add, name="first").on_failure(take_back, inputs=[])
counting.local_step(add, name="second").on_failure(take_back, inputs=[])
counting.local_step(decline, name="third")
counting.commit()

#: Stuck if n is above ``limit``.
sticking = Saga("canvas sticking", app=app)
sticking.local_step(add, name="first").on_failure(refuse, inputs=[], max_attempts=1)
sticking.local_step(decline, name="second")
sticking.commit()

#: As sticking; its compensation is tried twice.
stubborn = Saga("canvas stubborn", app=app)
stubborn.local_step(add, name="first").on_failure(
    refuse, inputs=[], max_attempts=2, retry_backoff=0.1
)
stubborn.local_step(decline, name="second")
stubborn.commit()

#: Its steps can be held and made fail.
holding = Saga("canvas holding", app=app)
holding.local_step(late, name="a").on_failure(compensation)
holding.local_step(late, name="b")
holding.commit()

Twins = [Saga("canvas twins", app=app, steps=steps).commit() for steps in ([add], [add, add])]
same = [Saga("canvas same", app=app, steps=[add]).commit() for _ in range(2)]


@app.task(name="canvas.hear", shared=False)
def hear(context):
    """Called at the end of each run of ``heard``."""
    record(context["tag"], end="completed")


#: A saga whose definition has a callback.
heard = Saga("canvas heard", app=app)
heard.local_step(context, name="only", inputs=[], returns=False, read_only=True)
heard.on_completed(hear).commit()
