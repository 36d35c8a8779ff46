"""The main job: a broker, a worker, sixty orders, a crash in the middle, and the proof."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from celery_saga import SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from example_project import report
from example_project.balance import Order, differences
from example_project.report import Kill
from example_project.shop.celery import app
from example_project.shop.checkout import checkout
from example_project.shop.database import ShopDatabase
from example_project.workers import Workers

HERE = Path(__file__).resolve().parent
#: Seconds in which all sagas have to be settled.
SETTLE_TIMEOUT = 90.0
#: Seconds that the kill waits for a moment when it hurts.
MOMENT_TIMEOUT = 3.0


class Watch:
    """Keeps an eye on the sagas that are not settled yet."""

    def __init__(self, results: dict[int, SagaResult], progress: Progress) -> None:
        self.open = dict(results)
        self._total = len(results)
        self._progress = progress
        self._bar = progress.add_task("sagas settled", total=self._total)

    def look(self) -> int:
        """Ask after every open saga and return how many are settled."""
        self.open = {order: saga for order, saga in self.open.items() if not saga.ready()}
        settled = self._total - len(self.open)
        self._progress.update(self._bar, completed=settled)
        return settled

    def until(self, share: float) -> None:
        """Look until this share of the sagas is settled, or until the time is up."""
        wait_until(lambda: self.look() >= share * self._total, SETTLE_TIMEOUT, every=0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; 0 if every saga was settled and everything balances, else 1."""
    options = _parse(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    # A polite end is an end like Ctrl-C: the with blocks clean up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(options, console)
    except KeyboardInterrupt:
        console.print("\nInterrupted; worker and broker are stopped.")
        return 130


def run(options: argparse.Namespace, console: Console) -> int:
    """Start everything, send the orders, kill a worker, wait, and report."""
    orders = [json.loads(line) for line in options.orders.read_text("utf-8").splitlines() if line]
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(options.keep, console))
        database = ShopDatabase(folder / "shop.sqlite")
        database.create(json.loads((HERE / "inventory.json").read_text("utf-8")))
        valkey = stack.enter_context(EmbeddedValkey())
        os.environ["CELERY_BROKER_URL"] = valkey.url(0)
        os.environ["CELERY_RESULT_BACKEND"] = valkey.url(1)
        os.environ["SHOP_DATABASE"] = str(database.path)
        console.print(f"Valkey listens on 127.0.0.1:{valkey.port}; starting the workers ...")
        workers = stack.enter_context(Workers(app, folder, keep=options.keep))
        try:
            for number in range(1, options.workers + 1):
                workers.start(f"shop{number}")
            results, kill = _send_and_watch(orders, workers, database, options, console)
        except RuntimeError as error:
            console.print(f"{error}\n{workers.log_tail()}", markup=False, soft_wrap=True)
            return 1
        code = _conclude(orders, results, database, kill, console)
        if code:
            console.print(workers.log_tail(), markup=False, soft_wrap=True)
        return code


def _send_and_watch(
    orders: list[Order],
    workers: Workers,
    database: ShopDatabase,
    options: argparse.Namespace,
    console: Console,
) -> tuple[dict[int, SagaResult], Kill | None]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        results = {
            order["order_id"]: checkout.apply_async(order, saga_id=f"order-{order['order_id']}")
            for order in orders
        }
        watch = Watch(results, progress)
        kill = None
        if options.kill:
            watch.until(1 / 3)
            kill = _kill_in_the_middle(workers, database, watch)
            died = time.monotonic()
            progress.console.print(
                f"Killed worker {kill.pid} and its pool (SIGKILL) with {len(kill.in_flight)} "
                "sagas in flight; starting another one ..."
            )
            workers.start("shop1")
        watch.until(1)
        if kill is not None:
            kill.settled_after = time.monotonic() - died
    return results, kill


def _kill_in_the_middle(workers: Workers, database: ShopDatabase, watch: Watch) -> Kill:
    """Kill the first worker at a bad moment: in a call of either kind, if that comes soon."""
    pid = workers.pid("shop1")

    def hurts() -> bool:
        return {_acks_late(task) for _, task in database.calls_of(pid)} == {True, False}

    wait_until(hurts, MOMENT_TIMEOUT, every=0.004)
    workers.kill("shop1")
    interrupted = [(order, task, _acks_late(task)) for order, task in database.calls_of(pid)]
    watch.look()
    return Kill(pid, list(watch.open), interrupted)


def _acks_late(task: str) -> bool:
    return bool(app.tasks[f"example_project.shop.tasks.{task}"].acks_late)


def _conclude(
    orders: list[Order],
    results: dict[int, SagaResult],
    database: ShopDatabase,
    kill: Kill | None,
    console: Console,
) -> int:
    executions = {order_id: result.execution for order_id, result in results.items()}
    statuses = {order_id: execution.status for order_id, execution in executions.items()}
    found = differences(database, orders, statuses)
    console.print(report.orders_table(orders, executions, wide=console.width >= 100))
    report.print_summary(console, statuses, kill)
    report.print_balance(console, database, found)
    settled = all(result.ready() for result in results.values())
    return 0 if settled and not found else 1


def wait_until(condition: Callable[[], bool], timeout: float, *, every: float) -> bool:
    """Look at a condition every so many seconds; whether it came true within the timeout."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (true := condition()) and time.monotonic() < deadline:
        pause.wait(every)
    return true


@contextmanager
def _folder(keep: bool, console: Console) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="celery-saga-example-"))
    try:
        yield folder
    finally:
        if keep:
            console.print(f"The shop's database and the workers' logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m example_project",
        description="Send orders through a checkout saga, kill the worker half-way, and prove that "
        "stock and money balance all the same.",
    )
    parser.add_argument("--orders", type=Path, default=HERE / "orders.jsonl", metavar="FILE")
    parser.add_argument(
        "--no-kill", dest="kill", action="store_false", help="leave the worker alone"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="worker nodes (default 1)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the database and the logs")
    return parser.parse_args(arguments)
