"""Tasks that are called without any saga, on an app that has the plugin or has it not."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace
from typing import Any

from celery import Celery, Task


class Loud(Task):
    """A base with a ``__call__`` of its own, as many projects have one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["loud", super().__call__(*args, **kwargs)]


class ClassBased(Task):
    name = "outside.class_based"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return {"called": self.run(*args, **kwargs)}

    def run(self, x: int) -> int:
        return x * 3


def around(call: Any) -> Any:
    """For ``task_annotations = {...: {'@__call__': around}}``."""

    def annotated(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ["annotated", call(self, *args, **kwargs)]

    return annotated


class ByObject:
    """The third form of an annotation."""

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"marked": "by object"} if task.name == "outside.add" else None


ANNOTATIONS: dict[str, Any] = {
    "none": None,
    "dict": {"outside.add": {"rate_limit": "90/s", "marked": "dict"}},
    "star": {"*": {"marked": "star"}},
    "around": {"outside.add": {"@__call__": around}},
    "around star": {"*": {"@__call__": around}},
    "call": {"outside.add": {"__call__": lambda self, *a, **k: ["set", self.run(*a, **k)]}},
    "object": ByObject(),
    "list": [{"outside.other": {"marked": "no"}}, ByObject(), {"*": {"marked": "list"}}],
    "path": "tests.worker.apps.outside:ByObject",
}


def declare(app: Celery) -> SimpleNamespace:
    task: Any = partial(app.task, shared=False)

    @task(name="outside.add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @task(name="outside.loud", base=Loud)
    def loud(x: int) -> int:
        return x

    @task(
        name="outside.flaky",
        bind=True,
        autoretry_for=(ValueError,),
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )
    def flaky(self: Any, failures: int) -> int:
        if self.request.retries < failures:
            raise ValueError("not yet")
        return int(self.request.retries)

    @task(name="outside.retrying", bind=True, max_retries=3)
    def retrying(self: Any, failures: int) -> int:
        if self.request.retries < failures:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @task(name="outside.who", bind=True)
    def who(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        request = self.request
        seen = {key: getattr(request, key) for key in ("id", "retries", "args", "kwargs")}
        return {**seen, "direct": request.called_directly, "eager": request.is_eager}

    @task(name="outside.keyed", bind=True, max_retries=1)
    def keyed(self: Any) -> tuple[Any, str]:
        from celery_saga import saga_info

        if not self.request.retries:
            raise self.retry(countdown=0)
        return saga_info().saga_id, saga_info().idempotency_key

    @task(name="outside.factorial", bind=True)
    def factorial(self: Any, n: int) -> int:
        return 1 if n < 2 else n * int(self(n - 1))

    @task(name="outside.calls_another")
    def calls_another(n: int) -> list[Any]:
        inner = who(n)
        return [inner["direct"], inner["args"], factorial(n), add.run(n)]

    @task(name="outside.total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @task(name="outside.replaced", bind=True)
    def replaced(self: Any, x: int) -> Any:
        return self.replace(add.s(x, 100))

    @task(name="outside.aborts", bind=True, autoretry_for=(Exception,), max_retries=1)
    def aborts(self: Any) -> None:
        from celery_saga import AbortSaga

        self.default_retry_delay = 0
        raise AbortSaga(f"try {self.request.retries}")

    found = dict(locals())
    del found["app"], found["task"]
    return SimpleNamespace(**found, class_based=app.register_task(ClassBased()))


def new_app(plugin: bool, annotations: str = "none", **settings: Any) -> Celery:
    from celery_saga import SagaManager

    app = Celery("outside", set_as_current=False)
    if plugin:
        SagaManager(app)
    app.conf.update(task_annotations=ANNOTATIONS[annotations], **settings)
    return app


if "SAGA_TEST_OUTSIDE" in os.environ:
    url = os.environ["SAGA_TEST_URL"]
    _plugin = os.environ["SAGA_TEST_OUTSIDE"] == "with"
    app = new_app(_plugin, "around", broker_url=url, result_backend=url)
    tasks = declare(app)
