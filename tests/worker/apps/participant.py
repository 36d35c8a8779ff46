"""Another service: an app of its own on a queue of its own, without the plugin.

What its tasks do is said by the content of the request.
"""

import json
import os

import redis
from celery import Celery

app = Celery("stock")
app.config_from_object("tests.worker.apps.settings")
app.conf.task_default_queue = "stock"


def _note(content, what, **data):
    client = redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])
    line = {"what": what, "pid": os.getpid(), "step": "", "direction": "", **data}
    client.rpush(f"journal:{content['saga']}", json.dumps(line))
    gate = f"gate:{content['saga']}:{what}"
    if what in content.get("hold", ()) and client.blpop([gate], timeout=60) is None:
        raise AssertionError(f"no test opened {gate}")


def _headers_of(task):
    found = task.request.headers
    return {name: found.get(name) for name in ("saga_request", "tenant", "user")}


def _behave(task, content, what):
    _note(content, what, id=task.request.id, **_headers_of(task))
    if f"{what} fails" in content.get("do", ()):
        raise ValueError(f"{what} fails")
    if f"{what} retries" in content.get("do", ()) and task.request.retries == 0:
        raise task.retry(countdown=0)
    if f"{what} refuses" in content.get("do", ()):
        return {"saga_response": {"content": "none left", "status": 400}}
    if f"{what} is handed on" in content.get("do", ()):
        return {"saga_response": {"status": 202}}
    return content.get("answer", {"reservation": 7})


@app.task(bind=True, name="stock.reserve", acks_late=True)
def reserve(self, content):
    return _behave(self, content, "reserve")


@app.task(bind=True, name="stock.release", acks_late=True)
def release(self, content):
    return _behave(self, content, "release")
