"""Steps that end in every way in which a step can end."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import datetime
from enum import Enum

from celery.exceptions import Ignore, Reject

from celery_saga import AbortSaga, SagaContext, saga_info
from tests.odd_errors import ODD
from tests.worker.apps.functional import app
from tests.worker.apps.journal import note, wait_at


class Declined(Exception):
    """A clean no."""


class Unsure(Exception):
    """It may have happened."""


class VeryUnsure(Unsure):
    pass


RAISES = {
    "declined": Declined("declined"),
    "unsure": Unsure("unsure"),
    "very unsure": VeryUnsure("very unsure"),
    "memory": MemoryError(),
    "abort": AbortSaga("no way"),
    "ignore": Ignore("ignored"),
    "reject": Reject("rejected", requeue=False),
}


@app.task
def do(value=None):
    note("began")
    return value


@app.task
def ends(how):
    note("began")
    raise RAISES[how]


@app.task(bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0, "max_retries": 3})
def aborts_under_autoretry(self):
    note("began")
    raise AbortSaga("no way")


@app.task(soft_time_limit=2)
def over_soft_limit():
    note("began")
    time.sleep(30)


@app.task(time_limit=2)
def over_hard_limit():
    note("began")
    time.sleep(30)


@app.task
def unusable():
    note("began")
    return {"handle": object()}


class Colour(str, Enum):
    RED = "red"


@app.task
def makes_shapes():
    note("began")
    return OrderedDict(pair=(1, 2), colour=Colour.RED, at={1: (datetime(2026, 11, 1),)})


@app.task
def makes_a_pair():
    note("began")
    return 1, (2,)


@app.task
def undo_shapes(pair, colour):
    note("began", pair=pair, colour=colour)


@app.task(ignore_result=True)
def made_of_things():
    note("began")
    return {"value": "left out", "thing": object()}


def bad_context(context: SagaContext):
    note("began")
    return 42


def unusable_context(context: SagaContext):
    note("began")
    context.handle = {1, object()}


@app.task
def raises_oddly(what):
    note("began")
    raise ODD[what][0]()


@app.task
def undo_raises_oddly(what):
    note("began")
    raise ODD[what][0]()


@app.task
def undo():
    note("began")


@app.task
def undo_with(receipt=None, other="default"):
    info = saga_info()
    note("began", receipt=receipt, other=other, forward=info.forward_key)
    return {"value": "what an undo returns does not count"}


@app.task
def undo_needs(receipt):
    note("began", receipt=receipt)


@app.task
def undo_twice():
    info = saga_info()
    note("began")
    if info.attempt < 3:
        raise ConnectionError("try again")


@app.task
def undo_never():
    note("began")
    raise PermissionError("the shop is closed")


@app.task
def undo_aborts():
    note("began")
    raise AbortSaga("it cannot be undone")


@app.task(autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0, "max_retries": 2})
def undo_with_autoretry():
    info = saga_info()
    note("began")
    if info.attempt < 3:
        raise ConnectionError("try again")


@app.task
def needs(value):
    note("began")


@app.task(bind=True)
def replaces(self):
    note("began")
    self.replace(do.s())


@app.task
def waits():
    note("began")
    wait_at("waits")
    note("ended")


def bad_context_undo(context: SagaContext) -> None:
    note("began", seen=dict(context))


def context_step(context: SagaContext) -> None:
    note("began")
    context.value = "from the step"
