"""Another service with the package: it has participants, and no saga manager."""

import json
import os

import redis
from celery import Celery, current_task

from celery_saga import SagaParticipantError, SagaResponse, saga_participant

app = Celery("bank")
app.config_from_object("tests.worker.apps.settings")
app.conf.task_default_queue = "bank"


class Overdrawn(Exception):
    """The service's own error."""


def serve(content):
    client = redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])
    line = {"what": "served", "pid": os.getpid(), "step": "", "direction": ""}
    headers = current_task.request.headers
    client.rpush(f"journal:{headers['saga_request']['saga_id']}", json.dumps(line))
    if content == "error":
        raise SagaParticipantError({"limit": 5})
    if content == "error without a text":
        raise SagaParticipantError
    if content == "own error":
        raise Overdrawn("by 7")
    if content == "another error":
        raise ValueError("no")
    if content == "response":
        return SagaResponse("declined", ["bank", "scoring"], 400)
    return {"paid": content}


@app.task(name="bank.pay", acks_late=True)
@saga_participant(refuses=Overdrawn)
def pay(content):
    return serve(content)


@app.task(name="bank.pay_bound", bind=True)
@saga_participant
def pay_bound(self, content, *, currency="EUR"):
    return {**serve(content), "currency": currency, "task": self.name}


@app.task(name="bank.pay_plain")
def pay_plain(content):
    return serve(content)


@app.task(name="bank.forgets", ignore_result=True)
@saga_participant
def forgets(content):
    return serve(content)
