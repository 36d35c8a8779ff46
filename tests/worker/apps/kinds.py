"""Every kind of task that Celery knows, as steps."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from celery import Task, shared_task
from pydantic import BaseModel

from celery_saga import Const, Saga, SagaContext, saga_info, saga_step
from tests.worker.apps.functional import app
from tests.worker.apps.journal import bodies_of, note


@app.task
def app_task(a, b=10):
    return a + b


@shared_task
def shared(a):
    return {"doubled": a * 2}


@app.task(bind=True)
def bound(self, a):
    request = self.request
    return {"a": a + 1, "task_id": request.id, "root_id": request.root_id, "args": request.args}


class Base(Task):
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return {"outer": type(self).__name__, "inner": super().__call__(*args, **kwargs)}


class ClassBased(Base):
    name = "kinds.class_based"

    def run(self, a: int) -> int:
        return a * 100


class_based = app.register_task(ClassBased())


@app.task(base=Base)
def with_base(a):
    return a * 10


@app.task(
    autoretry_for=(ConnectionError,),
    retry_kwargs={"max_retries": 2, "countdown": 0},
    retry_backoff=False,
)
def flaky(failures):
    note("began")
    if bodies_of("flaky") <= failures:
        raise ConnectionError("not now")
    return {"flaky_done": True}


@app.task(bind=True, max_retries=3)
def self_retry(self, failures):
    note("began")
    if self.request.retries < failures:
        raise self.retry(countdown=0.01)
    return self.request.retries


class Overwriting(Task):
    """Sets headers of its own in the place of those that it is given."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async(args, kwargs, **{**options, "headers": {"trace": "t-1"}})


@app.task(base=Overwriting)
def overwriting():
    note("began")
    return {"overwritten": True}


@app.task(base=Overwriting)
def compensation_overwriting():
    note("began")


@app.task(bind=True, base=Overwriting)
def overwriting_retry(self, failures):
    note("began")
    if self.request.retries < failures:
        raise self.retry(countdown=0.01)
    return {"trace": self.request.headers["trace"]}


@app.task(bind=True)
def retry_with_headers(self, failures):
    note("began")
    if self.request.retries < failures:
        raise self.retry(countdown=0.01, headers={"trace": "t-2"})
    return {"trace": self.request.headers["trace"]}


class Order(BaseModel):
    lines: list[int]


class Price(BaseModel):
    total: int


@app.task(pydantic=True)
def priced(order: Order) -> Price:
    assert isinstance(order, Order)
    return Price(total=sum(order.lines))


@app.task
async def fetched(a):
    await asyncio.sleep(0)
    return {"fetched": a}


@app.task
async def slowly_fetched(a):
    await asyncio.sleep(0.05)
    return {"by": saga_info().saga_id}


@app.task
async def fetched_without_success(a):
    await asyncio.sleep(0)
    raise LookupError("nothing there")


@app.task
def arguments(a, b="default", *args, c="c", **kwargs):
    return {"got": {"a": a, "b": b, "args": list(args), "c": c, "kwargs": kwargs}}


def in_place(context: SagaContext) -> None:
    context.a += 1


def new_context(context: SagaContext) -> SagaContext:
    return SagaContext(a=context.a, replaced=True)


def mapping(context):
    return {"only": context["a"]}


def true(context):
    context["true"] = "kept"
    return True


async def async_plain(context):
    await asyncio.sleep(0)
    context.waited = True


def with_constant(context, factor, offset=0):
    context.a = context.a * factor + offset


@app.task
def context_by_annotation(first: SagaContext):
    first.annotated = type(first).__name__


@app.task
def context_by_name(ctx):
    ctx["by_name"] = True


@saga_step(context=True)
@app.task
def context_by_word(whatever):
    return {**whatever, "by_word": True}


@saga_step(inputs={"a": "start"}, returns="declared")
@app.task
def declared(a, b=1):
    return [a, b]


@app.task
def unbook(booking=None):
    note("began", booking=booking)


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@app.task
@logged
@saga_step(compensation=unbook, returns="booking")
def book(a):
    return a + 1


@shared_task
@saga_step(compensation=unbook, returns="booking")
def book_shared(a):
    return a + 2


@app.task
def fully_booked():
    raise ValueError("no room")


@app.task
def described():
    info = saga_info()
    return {"info": {name: getattr(info, name) for name in info.__dataclass_fields__}}


def one(name: str, *steps: Any, **options: Any) -> Saga:
    saga = Saga(name, app=app)
    for step in steps:
        saga.local_step(step, **options)
    return saga.commit()


plain_saga = one("plain", in_place, app_task)
contexts = {
    "in place": one("in-place", in_place),
    "new context": one("new-context", new_context),
    "mapping": one("mapping", mapping),
    "true": one("true", true),
    "async": one("async", async_plain),
    "annotation": one("annotation", context_by_annotation),
    "name": one("name", context_by_name),
    "word": one("word", context_by_word),
    "lambda": one("lambda", lambda context: {**context, "lambda": True}),
    "constant": one("constant", with_constant, factor=3),
}
renamed = one("renamed", app_task, inputs={"a": "x", "b": Const(5)}, returns="sum")
path = one("path", app_task, inputs={"a": ("order", "lines", 1, "n")}, returns="sum")
listed = one("listed", arguments, inputs=["a", "extra"])
by_rule = one("by-rule", arguments)
