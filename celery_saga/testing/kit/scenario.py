"""What a test writes down: a saga, its context, what happens to its steps, what it expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from celery import Celery

from celery_saga.core.plan import Plan
from celery_saga.testing.kit.driver import Driver
from celery_saga.testing.kit.faults import Fault, Kind
from celery_saga.testing.kit.run import Run
from celery_saga.testing.kit.script import Script
from celery_saga.testing.kit.stage import Choose, Stage, first, preferring, shuffled


class Startable(Protocol):
    """What is needed of a saga: :class:`celery_saga.Saga` has it."""

    @property
    def app(self) -> Celery:
        """The app that runs it."""
        ...

    @property
    def plan(self) -> Plan:
        """The plan by which it runs."""
        ...

    def apply_async(self, context: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Start a run."""
        ...


@dataclass(frozen=True, repr=False)
class Scenario:
    """A saga with all that a test says of its run; each method returns a new one.

    Nothing runs before :meth:`run`, :meth:`start` or a method ``expect_...`` is called.
    """

    _saga: Startable
    _stage: Stage
    _values: Mapping[str, Any] = field(default_factory=dict)
    _options: Mapping[str, Any] = field(default_factory=dict)
    _faults: tuple[Fault, ...] = ()
    _choose: Callable[[], Choose] = lambda: first
    _signals: tuple[tuple[float, str, Any], ...] = ()
    _cancelled: float | None = None
    _ended: Callable[[Run], None] = lambda run: None

    def __repr__(self) -> str:
        return f"<Scenario of {self._saga!r}>"

    def context(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Scenario:
        """The values that the saga begins with; they are added to those of before."""
        return replace(self, _values={**self._values, **(values or {}), **more})

    def options(self, **options: Any) -> Scenario:
        """Options of the start: ``saga_id``, ``deadline``, ``countdown``, ``headers``..."""
        return replace(self, _options={**self._options, **options})

    def step(self, name: str) -> StepScript:
        """Say what happens to a step; ``ship[7]`` is one item of a loop, ``ship`` is all of them.

        Raises:
            ValueError: the saga has no such step.
        """
        return StepScript(self, self._checked(name), "f")

    def compensation(self, step: str) -> StepScript:
        """Say what happens to the compensation of a step; named as in :meth:`step`."""
        return StepScript(self, self._checked(step), "c")

    def signal(self, name: str, payload: Any = None, *, after: float = 0.0) -> Scenario:
        """Send a signal so many seconds after the start; a wait that comes later gets it too."""
        return replace(self, _signals=(*self._signals, (after, name, payload)))

    def cancelled(self, *, after: float = 0.0) -> Scenario:
        """Cancel the saga so many seconds after its start."""
        return replace(self, _cancelled=after)

    def order(self, *steps: str) -> Scenario:
        """Of branches that run at the same time, run these steps first, in this order."""
        for name in steps:
            self._checked(name)
        return replace(self, _choose=lambda: preferring(steps))

    def shuffled(self, seed: int) -> Scenario:
        """Run branches in an order that is drawn, the same for the same seed."""
        return replace(self, _choose=lambda: shuffled(seed))

    def start(self) -> Run:
        """Start the saga, and do what is due now: delays and timeouts wait for ``advance()``."""
        return self._started().advance(0)

    def run(self) -> Run:
        """Run the saga to its end, or until it waits for a signal that is not sent."""
        return self._started().finish()

    def expect_completed(self, **values: Any) -> Run:
        """Run it, and see :meth:`Run.expect_completed`."""
        return self.run().expect_completed(**values)

    def expect_compensated(self, *steps: str) -> Run:
        """Run it, and see :meth:`Run.expect_compensated`."""
        return self.run().expect_compensated(*steps)

    def expect_stuck(self, *steps: str) -> Run:
        """Run it, and see :meth:`Run.expect_stuck`."""
        return self.run().expect_stuck(*steps)

    def expect_waiting(self, *signals: str) -> Run:
        """Run it, and see :meth:`Run.expect_waiting`."""
        return self.run().expect_waiting(*signals)

    def expect_ran(self, *steps: str) -> Run:
        """Run it, and see :meth:`Run.expect_ran`."""
        return self.run().expect_ran(*steps)

    def with_fault(self, fault: Fault) -> Scenario:
        """Let one more thing happen."""
        return replace(self, _faults=(*self._faults, fault))

    def _checked(self, name: str) -> str:
        known = [node.name for path, node in self._saga.plan.walk() if path]
        if name.partition("[")[0] not in known:
            text = f"step {name!r}: the saga has no such step; it has {', '.join(known)}"
            raise ValueError(text)
        return name

    def _started(self) -> Run:
        stage = self._stage
        driver = Driver(stage, self._choose())
        with stage.entered():
            result = self._saga.apply_async(dict(self._values), **self._options)
        stage.scripts[result.id] = Script(self._faults, stage.clock.advance)
        run, now = Run(stage, driver, result, self._ended), stage.clock()
        for after, name, payload in self._signals:

            def send(name: str = name, payload: Any = payload) -> None:
                result.signal(name, payload, by="test")

            driver.at(now + after, send)
        if self._cancelled is not None:
            driver.at(now + self._cancelled, result.cancel)
        return run


@dataclass(frozen=True)
class StepScript:
    """What happens to one step of a scenario; each method returns the scenario.

    ``times`` says to how many attempts it happens; by default to all of them. Of several things
    that happen to one step, each happens to the attempts that the ones before have left.
    """

    _scenario: Scenario
    _step: str
    _direction: str

    def fails(
        self, error: BaseException | type[BaseException] | None = None, *, times: int | None = None
    ) -> Scenario:
        """It raises this in place of its body; the task's own ``autoretry_for`` applies."""
        return self._with(Kind.FAILS, times, error=error)

    def fails_after_body(
        self, error: BaseException | type[BaseException] | None = None, *, times: int | None = None
    ) -> Scenario:
        """Its body runs, and then it raises this: it failed, and its effect exists."""
        return self._with(Kind.FAILS_AFTER, times, error=error)

    def loses_its_worker(self, *, before_body: bool = False, times: int | None = None) -> Scenario:
        """Its process dies when its body has run, or before: the outcome is unknown."""
        return self._with(Kind.LOST if before_body else Kind.LOST_AFTER, times)

    def hits_time_limit(self, *, soft: bool = False, times: int | None = None) -> Scenario:
        """Its body has had its effect when a time limit ends it."""
        return self._with(Kind.SOFT_LIMIT if soft else Kind.LIMIT, times)

    def returns(self, value: Any, *, times: int | None = None) -> Scenario:
        """It returns this in place of its body; its task may be another service's."""
        return self._with(Kind.RETURNS, times, value=value)

    def takes(self, seconds: float, *, times: int | None = None) -> Scenario:
        """Its body takes so long, in the time of the test's clock."""
        return self._with(Kind.TAKES, times, seconds=seconds)

    def runs_twice(
        self, *, seen: Callable[[], None] | None = None, times: int | None = None
    ) -> Scenario:
        """Its body runs a second time with the same keys, as after a report that was lost.

        Args:
            seen: is called after each of the two.
        """
        return self._with(Kind.TWICE, times, seen=seen)

    def _with(self, kind: Kind, times: int | None, **more: Any) -> Scenario:
        if times is not None and times < 1:
            raise ValueError(f"times: expected 1 or more, found {times!r}")
        fault = Fault(self._step, self._direction, kind, times, **more)
        return self._scenario.with_fault(fault)
