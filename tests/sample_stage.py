"""Runs the Python samples of one page: ``python -m tests.sample_stage docs/how-to/testing.md``.

Each sample is run as a reader would paste it into a project that has what the page takes for
granted: an app, tasks, a saga. Tasks run eagerly, except for samples that start a worker.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import redis
from celery import Celery, chain, chord, shared_task

import celery_saga

ROOT = Path(__file__).resolve().parents[1]

EAGER = {"task_always_eager": True, "task_ignore_result": False}
IN_MEMORY = {
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "saga_store_url": "memory://",
}

#: What the apps of the samples have for a server.
_SERVERS = re.compile(r"broker=\"[^\"]+\", backend=\"[^\"]+\"")


class CardDeclined(Exception):
    """What a step of the samples raises."""


def samples_of(page: Path) -> list[str]:
    """The Python samples of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def compiled(sample: str, name: str) -> Any:
    """The code of a sample, which may wait for coroutines."""
    return compile(sample, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def stage(sample: str) -> dict[str, Any]:
    """The names that a sample may take for granted."""
    eager = {} if "start_worker" in sample else EAGER
    app = Celery("shop", set_as_current=False, config_source={**IN_MEMORY, **eager})
    names = {name: getattr(celery_saga, name) for name in celery_saga.__all__}
    names |= {"app": app, "CardDeclined": CardDeclined, "mock": mock}
    names |= {"Celery": Celery, "chain": chain, "chord": chord, "redis": redis}
    names |= {"shared_task": shared_task, "PaymentTimeout": TimeoutError}
    names |= {"__name__": "samples", "config": {**IN_MEMORY, **EAGER}}
    for name in ("warehouse", "gateway", "carrier"):
        names[name] = mock.Mock(**{"reserve.return_value": "r-7"})
    names["gateway"].charge.return_value = SimpleNamespace(id="p-7")
    if "SagaManager(app" not in sample:
        names["sagas"] = celery_saga.SagaManager(app)
    return names | project(app, names.get("sagas"))


def project(app: Celery, sagas: Any) -> dict[str, Any]:
    """The tasks and sagas of the project into which the samples are pasted."""

    @app.task(acks_late=True, shared=False)
    def reserve_stock(order_id, sku="kettle"):
        return f"r-{order_id}"

    @app.task(acks_late=True, shared=False)
    def charge_card(order_id, total=9.99):
        if total > 1000:
            raise CardDeclined("the limit of the card")
        return {"payment_id": f"p-{order_id}"}

    @app.task(acks_late=True, shared=False)
    def create_disk(vm_id, size):
        return {"id": f"{vm_id}/{size}"}

    def step(order_id=7, **kwargs):
        """A step, or a compensation."""

    def callback(*results):
        """What is called with the results of others."""
        return {"order_id": 7}

    steps = ("release_stock", "refund_card", "ship_order", "clean_up", "destroy_disk")
    callbacks = ("send_receipt", "notify_customer", "page_operator", "price_basket", "report")
    made = {name: app.task(step, name=name, acks_late=True, shared=False) for name in steps}
    made |= {name: app.task(callback, name=name, shared=False) for name in callbacks}
    made |= {"reserve_stock": reserve_stock, "charge_card": charge_card, "create_disk": create_disk}
    saga = celery_saga.Saga("checkout", app=app)
    saga.local_step(reserve_stock).on_failure(made["release_stock"])
    saga.local_step(charge_card).on_failure(made["refund_card"])
    saga.commit()
    settle = celery_saga.Saga("settle accounts", steps=[reserve_stock], app=app).commit()
    found = {**made, "checkout": saga, "settle_accounts": settle, "basket": [1], "orders": [1, 2]}
    found |= {"context": {"order_id": 7}, "order_id": 7, "sku": "kettle", "total": 9.99}
    found |= {"sizes": [10, 20], "vm_id": "vm-1"}
    if sagas is not None:
        found["result"] = saga.delay(order_id=7, total=10_000)
    return found


def run(sample: str, name: str) -> None:
    """Run one sample; its errors pass through."""
    text = _SERVERS.sub("config_source=config", sample)
    names = stage(sample)
    outcome = eval(compiled(text, name), names)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)


def main() -> None:
    """Run all samples of the page that the command line names; say which ones ran."""
    warnings.simplefilter("error", celery_saga.DefinitionWarning)
    (page,) = sys.argv[1:]
    for number, sample in enumerate(samples_of(ROOT / page), 1):
        run(sample, f"{page}, sample {number}")
        print(f"{page}, sample {number}", flush=True)


if __name__ == "__main__":
    main()
