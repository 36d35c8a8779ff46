"""A saga that a test has started, and what the test expects of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.decide.operators import awaited
from celery_saga.core.decide.repair import obstacle_of
from celery_saga.core.execution import Failure, SagaExecution, SagaStatus, StepStatus
from celery_saga.testing.kit.clock import VirtualClock
from celery_saga.testing.kit.driver import Driver
from celery_saga.testing.kit.faults import Fault
from celery_saga.testing.kit.outbox import SentTask
from celery_saga.testing.kit.stage import Stage
from celery_saga.testing.kit.trail import Ran


class Run:
    """One run of a saga under test.

    ``expect_...`` methods return the run, so that they can be written one after the other. Their
    errors show the whole run.
    """

    def __init__(
        self, stage: Stage, driver: Driver, handle: Any, ended: Callable[[Run], None]
    ) -> None:
        self._stage, self._driver, self._handle, self._ended = stage, driver, handle, ended
        self.saga_id: str = handle.id

    # -- what became of it

    @property
    def execution(self) -> SagaExecution:
        """The whole record."""
        return self._stage.orchestrator.load(self.saga_id)

    @property
    def status(self) -> SagaStatus:
        """Where it is; it equals its name as a text, such as ``"COMPENSATED"``."""
        return self.execution.status

    @property
    def context(self) -> SagaContext:
        """A copy of the context as it is now."""
        return self.execution.context

    @property
    def error(self) -> Failure | None:
        """Why it failed: ``step``, ``type`` and ``message``."""
        return self.execution.error

    @property
    def trail(self) -> list[Ran]:
        """What has run of it, in the order in which it ended."""
        return list(self._stage.trails[self.saga_id])

    @property
    def sent(self) -> list[SentTask]:
        """Other tasks that bodies and callbacks of this test have sent; they are not run."""
        return list(self._stage.sent)

    @property
    def clock(self) -> VirtualClock:
        """The clock of its stage."""
        return self._stage.clock

    @property
    def unused(self) -> list[Fault]:
        """What the test has said of steps that were not run."""
        script = self._stage.scripts.get(self.saga_id)
        return [] if script is None else script.unused

    def inputs(self, step: str, *, compensation: bool = False) -> Mapping[str, Any]:
        """The arguments of the newest attempt at a step, by the names of its task's parameters.

        Raises:
            AssertionError: it did not run.
        """
        direction = "c" if compensation else "f"
        found = [ran for ran in self.trail if (ran.step, ran.direction) == (step, direction)]
        if not found:
            raise AssertionError(self._text(f"{step!r} did not run"))
        return found[-1].inputs

    # -- what a test does to it

    def advance(self, seconds: float) -> Run:
        """Let time pass, and do what is due by then."""
        if seconds < 0:
            raise ValueError(f"advance: expected 0 seconds or more, found {seconds!r}")
        return self._driven(self.clock() + seconds)

    def finish(self) -> Run:
        """Continue to the end; time passes as it is needed."""
        return self._driven(None)

    def signal(self, name: str, payload: Any = None) -> Run:
        """Send a signal, and do what is due now."""
        with self._stage.entered():
            self._handle.signal(name, payload, by="test")
        return self.advance(0)

    def cancel(self) -> bool:
        """Cancel it, and do what is due now; returns whether that changed anything."""
        with self._stage.entered():
            found = self._handle.cancel()
        self.advance(0)
        return bool(found)

    def _driven(self, until: float | None) -> Run:
        self._driver.drive(until)
        if self.execution.settled:
            self._ended(self)
        return self

    # -- what a test expects of it

    def expect_completed(self, **values: Any) -> Run:
        """It is completed, and these keys of its context have these values."""
        self._expect_status(SagaStatus.COMPLETED)
        context = self.context
        for key, value in values.items():
            if key not in context:
                raise AssertionError(self._text(f"expected context[{key!r}], which is missing"))
            if context[key] != value:
                found = f"expected context[{key!r}] == {value!r}, found {context[key]!r}"
                raise AssertionError(self._text(found))
        return self

    def expect_compensated(self, *steps: str) -> Run:
        """It is rolled back: exactly these steps were compensated, in this order."""
        self._expect_status(SagaStatus.COMPENSATED)
        found = [ran.step for ran in self.trail if ran.compensation and ran.returned]
        return self._expect_names("the compensations of", steps, found)

    def expect_stuck(self, *steps: str) -> Run:
        """It is stuck; at exactly these steps, if some are named."""
        self._expect_status(SagaStatus.STUCK)
        return self._expect_names("it to be stuck at", sorted(steps), self._stuck_at(), steps != ())

    def expect_waiting(self, *signals: str) -> Run:
        """It waits for exactly these signals."""
        self._expect_status(SagaStatus.RUNNING)
        found = sorted(name for _, name in awaited(self.execution))
        return self._expect_names("it to wait for", sorted(signals), found)

    def expect_ran(self, *steps: str) -> Run:
        """The actions of exactly these steps were run, in the order of their first attempts."""
        found = dict.fromkeys(ran.step for ran in self.trail if not ran.compensation)
        return self._expect_names("the actions of", steps, list(found))

    def expect_attempts(self, step: str, count: int, *, compensation: bool = False) -> Run:
        """A step was attempted so often, Celery's own retries included."""
        self._check_script()
        wanted = (step, "c" if compensation else "f")
        found = sum((ran.step, ran.direction) == wanted for ran in self.trail)
        if found != count:
            raise AssertionError(self._text(f"expected {count} attempts at {step!r}, not {found}"))
        return self

    def expect_failed(self, step: str, error: type[BaseException] | str = "") -> Run:
        """It failed because of that step, with an error of that class or dotted name."""
        self._check_script()
        found = self.error
        name = error if isinstance(error, str) else f"{error.__module__}.{error.__qualname__}"
        if found is None or found.step != step:
            why = "it did not fail" if found is None else f"{found.step!r} failed: {found}"
            raise AssertionError(self._text(f"expected step {step!r} to fail, {why}"))
        if name and found.type not in (name, name.removeprefix("builtins.")):
            raise AssertionError(self._text(f"expected step {step!r} to raise {name}: {found}"))
        return self

    def _stuck_at(self) -> list[str]:
        execution, obstacle = self.execution, obstacle_of(self.execution)
        failed = StepStatus.COMPENSATION_FAILED
        names = {step.name for step in execution.steps if step.status is failed}
        return sorted(names | ({obstacle.step} if obstacle is not None else set()))

    def _expect_status(self, status: SagaStatus) -> None:
        self._check_script()
        if self.status is not status:
            raise AssertionError(self._text(f"expected {status}, found {self.status}"))

    def _expect_names(self, what: str, wanted: Any, found: list[str], strict: bool = True) -> Run:
        self._check_script()
        if strict and list(wanted) != found:
            text = f"expected {what} {_listed(wanted)}, found {_listed(found)}"
            raise AssertionError(self._text(text))
        return self

    def _check_script(self) -> None:
        """A test that says what happens to a step that does not run shows less than it says."""
        if self.unused:
            text = f"the test says: {self.unused[0]}; it was not run"
            raise AssertionError(self._text(text))

    def _text(self, what: str) -> str:
        return f"{what}\n{self}"

    def __str__(self) -> str:
        execution = self.execution
        lines = [f"saga {execution.name!r} {self.status}", *map(str, self.trail)]
        if execution.error is not None:
            lines.append(f"failed at {execution.error.step!r}: {execution.error}")
        obstacle = obstacle_of(execution) if self.status is SagaStatus.STUCK else None
        if obstacle is not None:
            lines.append(f"stuck at {obstacle.step!r}: {obstacle.cause}")
        return "\n  ".join(lines)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
