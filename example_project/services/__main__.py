"""Runs both services, each with a worker of its own: ``python -m example_project.services``."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import redis

from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess

#: The folder from which ``example_project`` can be imported.
PROJECT = Path(__file__).resolve().parents[2]

#: Order number, goods, pieces, card -> how its saga ends.
ORDERS = {
    (1, "MUG", 2, "good"): "COMPLETED",
    (2, "MUG", 9, "good"): "COMPENSATED",  # the stock service refuses
    (3, "MUG", 1, "declined"): "COMPENSATED",  # the stock service takes the goods back
    (4, "RUG", 1, "good"): "COMPLETED",
}


def worker(service: str, folder: Path) -> ManagedProcess:
    """Start the worker of a service."""
    command = [sys.executable, "-m", "celery", "-A", f"example_project.services.{service}"]
    options = ["worker", "-c", "1", "-n", f"{service}@localhost", "--loglevel", "INFO"]
    return ManagedProcess([*command, *options], cwd=PROJECT, log=folder / f"{service}.log")


def main() -> int:
    """Place the orders, show how they end, and compare the shelf with them."""
    with tempfile.TemporaryDirectory() as name, EmbeddedValkey() as server:
        folder = Path(name)
        os.environ["CELERY_BROKER_URL"] = os.environ["CELERY_RESULT_BACKEND"] = server.url(0)
        os.environ["SHELF_URL"] = server.url(1)
        shelf = redis.Redis.from_url(server.url(1), decode_responses=True)
        shelf.hset("shelf", mapping={"MUG": 5, "RUG": 1})
        workers = [worker(service, folder) for service in ("orders", "stock")]
        try:
            good = placed()
        finally:
            for process in workers:
                process.stop()
        left = shelf.hgetall("shelf")
        print(f"left on the shelf: {left}")
        if good and left == {"MUG": "3", "RUG": "0"}:
            return 0
        print("\n".join(log.read_text() for log in sorted(folder.glob("*.log"))))
        return 1


def placed() -> bool:
    """Whether all orders end as they should."""
    order = import_module("example_project.services.orders").order
    good = True
    for (order_id, sku, quantity, card), expected in ORDERS.items():
        began = time.monotonic()
        result = order.delay(order_id=order_id, sku=sku, quantity=quantity, card=card)
        result.get(timeout=60, propagate=False)
        good = good and result.status == expected
        error = result.execution.error
        why = "" if error is None else f" ({error.message})"
        seconds = time.monotonic() - began
        print(f"order {order_id}, {quantity} {sku}: {result.status} in {seconds:.1f} s{why}")
    return good


if __name__ == "__main__":
    sys.exit(main())
