"""Keeps so many sagas under way until all have ended, while the injector does its worst."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from celery.states import READY_STATES
from kombu.exceptions import OperationalError

from benchmarks.chaos.app import Sagas, make_app
from benchmarks.chaos.injector import Happened, Injector
from benchmarks.chaos.judge import Faults, Told, Verdict, judge
from benchmarks.chaos.ledger import Ledger, Line
from benchmarks.chaos.orders import make_order
from benchmarks.chaos.schedule import make_schedule
from benchmarks.chaos.stage import Stage
from celery_saga import SagaManager
from celery_saga.errors import SagaExecutionNotFoundException, StoreUnavailable

#: Seconds that a saga has to settle.
PATIENCE = 180.0
#: Seconds after which a saga without a result is asked for its status.
SLOW = 20.0
#: Seconds between two looks at the results.
POLL = 0.05
#: Seconds without a new line in the ledger after which all is over.
QUIET = 6.0
#: What a start may raise while servers are away.
AWAY = (StoreUnavailable, OperationalError, redis.RedisError, OSError)


@dataclass(frozen=True)
class Options:
    """Of a run.

    Args:
        sagas: how many.
        kills: how many SIGKILLs; other faults come in proportion.
        seed: of orders and faults.
        workers: prefork workers with two processes each.
        in_flight: sagas that are under way at a time.
        apart: whether broker and store are a server each.
        heartbeat: of the workers, see the stage.
    """

    sagas: int
    kills: int
    seed: int
    workers: int = 3
    in_flight: int = 200
    apart: bool = False
    heartbeat: tuple[float, float] | None = None


@dataclass
class Outcome:
    """Of a run.

    Args:
        seconds: from the first start to the last end.
        missed: faults that found nothing to hit before the last saga had ended.
        waits: seconds from start to end of each saga, as far as its end was seen.
        refusals: starts that raised, by the name of the error; each was repeated.
    """

    options: Options
    verdicts: list[Verdict]
    faults: list[Happened]
    lines: dict[str, list[Line]]
    seconds: float
    missed: int = 0
    waits: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)


def run(
    options: Options, folder: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Carry out a run and judge it.

    Args:
        folder: where the workers' logs stay.
        say: is told how it goes.

    Raises:
        ChaosError: it could not be carried out.
    """
    stage = Stage(options.workers, options.apart, folder, options.heartbeat)
    with stage, _logging_to(stage.folder / "client.log"):
        return _Run(options, stage, say).run()


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """What the library has to say of servers that are away does not belong on the screen."""
    log, handler = logging.getLogger("celery_saga"), logging.FileHandler(file)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class _Run:
    def __init__(self, options: Options, stage: Stage, say: Callable[[str], None]) -> None:
        self._options, self._stage, self._say = options, stage, say
        urls = {name: server.url() for name, server in stage.servers.items()}
        self._app = make_app(urls["broker"], urls["store"])
        self._manager = SagaManager(self._app)
        self._sagas = Sagas(self._app)
        numbers = range(options.sagas)
        self._orders = [make_order(options.seed, number) for number in numbers]
        self._to_start = deque(self._orders)
        self._under_way: dict[str, float] = {}
        self._waits: list[float] = []
        self._given_up = 0
        self._refusals: Counter[str] = Counter()
        schedule = make_schedule(options.seed, options.sagas, options.kills)
        self._injector = Injector(stage, schedule, self._progress)

    def _progress(self) -> int:
        return len(self._waits) + self._given_up

    def run(self) -> Outcome:
        begun = time.monotonic()
        self._injector.start()
        try:
            self._drive(begun)
            seconds = time.monotonic() - begun
            ledger = Ledger(self._stage.ledger.url())
            self._settle_down(ledger)
        finally:
            self._injector.finish()
        told = {order.saga_id: self._told(order.saga_id) for order in self._orders}
        found = self._judge(told, ledger.lines())
        found.seconds = seconds
        ledger.close()
        self._app.close()
        return found

    def _drive(self, begun: float) -> None:
        said = begun
        while self._to_start or self._under_way or self._injector.busy:
            if self._injector.error:
                raise self._injector.error
            self._top_up()
            self._watch()
            if time.monotonic() - said > 5:
                said = time.monotonic()
                self._say(self._state(said - begun))

    def _state(self, seconds: float) -> str:
        faults = Counter(each.kind for each in self._injector.log)
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        ended = f"{self._progress()} of {self._options.sagas} ended"
        faults = f"{done or 'no faults'}, {self._injector.left} to come"
        return f"{seconds:.0f} s: {ended}, {len(self._under_way)} under way; {faults}"

    def _top_up(self) -> None:
        while self._to_start and len(self._under_way) < self._options.in_flight:
            order = self._to_start[0]
            try:
                saga = self._sagas.of(order)
                saga.apply_async(order.context(), saga_id=order.saga_id)
            except AWAY as error:
                # Nobody knows whether it was started: the same id started again is the same saga.
                self._refusals[type(error).__name__] += 1
                return
            self._to_start.popleft()
            self._under_way[order.saga_id] = time.monotonic()

    def _watch(self) -> None:
        """Take note of sagas that have ended."""
        if not self._under_way:
            time.sleep(POLL)
            return
        now = time.monotonic()
        try:
            ended = dict(self._results(self._under_way))
            slow = [key for key, since in self._under_way.items() if now - since > SLOW]
            ended.update((key, "") for key in slow if self._settled(key))
        except AWAY:
            time.sleep(POLL)
            return
        for saga_id in ended:
            self._waits.append(now - self._under_way.pop(saga_id))
        for saga_id in [key for key, since in self._under_way.items() if now - since > PATIENCE]:
            self._given_up += 1
            del self._under_way[saga_id]

    def _results(self, saga_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Ids and states of those that have a Celery result."""
        backend: Any = self._app.backend
        for saga_id, found in backend.get_many(list(saga_ids), interval=POLL, max_iterations=1):
            if found["status"] in READY_STATES:
                yield saga_id, found["status"]

    def _settled(self, saga_id: str) -> bool:
        return self._manager.get(saga_id).ready()

    def _settle_down(self, ledger: Ledger) -> None:
        """Wait until no body runs any more, and no saga is on its way."""
        give_up = time.monotonic() + PATIENCE
        length, since = len(ledger), time.monotonic()
        while time.monotonic() < give_up:
            time.sleep(POLL)
            if len(ledger) != length:
                length, since = len(ledger), time.monotonic()
            elif time.monotonic() - since > QUIET:
                if all(self._told(order.saga_id).status in _OVER for order in self._orders):
                    return
                since = time.monotonic()

    def _told(self, saga_id: str) -> Told:
        try:
            status = self._manager.get(saga_id).status.value
        except SagaExecutionNotFoundException:
            status = ""
        return Told(status, self._app.AsyncResult(saga_id).state)

    def _judge(self, told: dict[str, Told], lines: Iterable[Line]) -> Outcome:
        found: dict[str, list[Line]] = {order.saga_id: [] for order in self._orders}
        for line in lines:
            found[line.saga_id].append(line)
        faults = Faults(self._injector.log)
        verdicts = [
            judge(order, told[order.saga_id], found[order.saga_id], faults)
            for order in self._orders
        ]
        log = self._injector.log
        return Outcome(
            self._options,
            verdicts,
            log,
            found,
            seconds=0.0,
            missed=self._injector.left,
            waits=self._waits,
            refusals=self._refusals,
        )


#: Statuses of sagas on which nothing more happens.
_OVER = ("COMPLETED", "COMPENSATED", "STUCK", "")
