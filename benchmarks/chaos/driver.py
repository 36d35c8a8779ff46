"""Keeps so many sagas in flight until all have ended, while the injector injects faults."""

from __future__ import annotations

import contextlib
import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.causes import Faults
from benchmarks.chaos.chain import Chains
from benchmarks.chaos.engines import UNAVAILABLE, Engine, Sagas
from benchmarks.chaos.injector import Happened, Injector
from benchmarks.chaos.ledger import Ledger, Line
from benchmarks.chaos.orders import make_order
from benchmarks.chaos.schedule import make_schedule
from benchmarks.chaos.stage import ChaosError, Stage
from benchmarks.chaos.verdict import Reported, Verdict, verdict_on

#: How orders may be run.
ENGINES: dict[str, type[Sagas] | type[Chains]] = {"saga": Sagas, "chain": Chains}

#: Seconds after which the status of a saga without a result is read.
SLOW = 20.0
#: Seconds between two requests for the results.
POLL = 0.05
#: Seconds without a new line in the ledger after which all is over.
QUIET = 6.0


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
        engine: a key of :data:`ENGINES`.
        shape: of the sagas; chains are linear.
    """

    sagas: int
    kills: int
    seed: int
    workers: int = 3
    in_flight: int = 200
    apart: bool = False
    heartbeat: tuple[float, float] | None = None
    engine: str = "saga"
    shape: str = "linear"


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
    """Carry out a run, and compute the verdicts.

    Args:
        folder: where the workers' logs stay.
        say: gets the progress as text.

    Raises:
        ChaosError: it could not be carried out.
    """
    if options.engine == "chain" and options.shape != "linear":
        raise ChaosError("chains are linear")
    app = ENGINES[options.engine].app
    stage = Stage(app, options.workers, options.apart, folder, options.heartbeat)
    with stage, _logging_to(stage.folder / "client.log"):
        return _Run(options, stage, say).run()


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Write the library's log to a file: warnings about servers would hide the progress."""
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
        self._engine: Engine = ENGINES[options.engine](urls["broker"], urls["store"])
        numbers = range(options.sagas)
        self._orders = [make_order(options.seed, number, options.shape) for number in numbers]
        self._to_start = deque(self._orders)
        self._under_way: dict[str, float] = {}
        self._waits: list[float] = []
        self._timed_out = 0
        self._refusals: Counter[str] = Counter()
        self._to_cancel: list[tuple[float, str]] = []
        schedule = make_schedule(options.seed, options.sagas, options.kills)
        self._injector = Injector(stage, schedule, self._progress)

    def _progress(self) -> int:
        return len(self._waits) + self._timed_out

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
        reported = {order.saga_id: self._engine.reported(order.saga_id) for order in self._orders}
        found = self._verdicts(reported, ledger.lines())
        found.seconds = seconds
        ledger.close()
        self._engine.close()
        return found

    def _drive(self, begun: float) -> None:
        said = begun
        while self._to_start or self._under_way or self._injector.busy:
            if self._injector.error:
                raise self._injector.error
            self._top_up()
            self._cancel()
            self._watch()
            if time.monotonic() - said > 5:
                said = time.monotonic()
                self._say(self._state(said - begun))

    def _state(self, seconds: float) -> str:
        faults = Counter(each.kind for each in self._injector.log)
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        ended = f"{self._progress()} of {self._options.sagas} ended"
        done = f"{done or 'no faults'}, {self._injector.left} to come"
        return f"{seconds:.0f} s: {ended}, {len(self._under_way)} under way; {done}"

    def _top_up(self) -> None:
        while self._to_start and len(self._under_way) < self._options.in_flight:
            order = self._to_start[0]
            try:
                self._engine.start(order)
            except UNAVAILABLE as error:
                # It may have been started: the same id started again is the same saga.
                self._refusals[type(error).__name__] += 1
                return
            self._to_start.popleft()
            self._under_way[order.saga_id] = now = time.monotonic()
            if order.cancelled is not None:
                heapq.heappush(self._to_cancel, (now + order.cancelled, order.saga_id))

    def _cancel(self) -> None:
        while self._to_cancel and self._to_cancel[0][0] <= time.monotonic():
            try:
                self._engine.cancel(self._to_cancel[0][1])
            except UNAVAILABLE:
                return
            heapq.heappop(self._to_cancel)

    def _watch(self) -> None:
        """Record sagas that have ended."""
        if not self._under_way:
            time.sleep(POLL)
            return
        now = time.monotonic()
        try:
            ended = self._engine.ended(self._under_way)
            slow = [key for key, since in self._under_way.items() if now - since > SLOW]
            ended |= {key for key in slow if self._engine.reported(key).status in _OVER}
        except UNAVAILABLE:
            ended = set()
        if not ended:
            time.sleep(POLL)
        for saga_id in ended:
            self._waits.append(now - self._under_way.pop(saga_id))
        timeout = self._engine.timeout
        for saga_id in [key for key, since in self._under_way.items() if now - since > timeout]:
            self._timed_out += 1
            del self._under_way[saga_id]

    def _settle_down(self, ledger: Ledger) -> None:
        """Wait until no body runs any more, and all sagas are settled."""
        deadline = time.monotonic() + self._engine.timeout
        length, since = len(ledger), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(POLL)
            if len(ledger) != length:
                length, since = len(ledger), time.monotonic()
            elif time.monotonic() - since > QUIET:
                if all(
                    self._engine.reported(each.saga_id).status in _OVER for each in self._orders
                ):
                    return
                since = time.monotonic()

    def _verdicts(self, reported: dict[str, Reported], lines: Iterable[Line]) -> Outcome:
        found: dict[str, list[Line]] = {order.saga_id: [] for order in self._orders}
        for line in lines:
            found[line.saga_id].append(line)
        faults = Faults(self._injector.log)
        verdicts = [
            verdict_on(order, reported[order.saga_id], found[order.saga_id], faults)
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
