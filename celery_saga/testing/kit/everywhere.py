"""Three properties of every saga: it rolls back from each step, and nothing that runs twice harms.

They are those of Oxide's tests of sagas (steno, omicron):

- Each step fails cleanly, loses its worker before and after its body, and hits its time limit. The
  saga ends COMPENSATED, and the state is that of before the run.
- Each compensation fails once, before and after its body, and each is run twice: the same.
- Each action is run twice with its key: the second time changes nothing more.

Steps after the pivot cannot be rolled back, and are run twice only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_saga.core.decide.repair import obstacle_of
from celery_saga.core.execution import Direction, SagaStatus
from celery_saga.core.plan import PlanStep
from celery_saga.core.plan.plan import Plan
from celery_saga.errors import AbortSaga
from celery_saga.testing.kit.effects import EffectLog
from celery_saga.testing.kit.faults import Fault, Kind
from celery_saga.testing.kit.kit import SagaKit
from celery_saga.testing.kit.run import Run
from celery_saga.testing.kit.scenario import Scenario, Startable

#: Ways in which an action ends -> what happens to it.
ACTION_WAYS: Mapping[str, Kind] = {
    "fails cleanly": Kind.FAILS,
    "loses its worker before its body": Kind.LOST,
    "loses its worker after its body": Kind.LOST_AFTER,
    "hits its time limit": Kind.LIMIT,
    "runs twice": Kind.TWICE,
}
#: The same of a compensation, while another step fails.
COMPENSATION_WAYS: Mapping[str, Kind] = {
    "its compensation fails once before its body": Kind.FAILS,
    "its compensation fails once after its body": Kind.FAILS_AFTER,
    "its compensation runs twice": Kind.TWICE,
}
#: All of them.
WAYS = (*ACTION_WAYS, *COMPENSATION_WAYS)


class AbortedByTheTest(AbortSaga):
    """The error of a step that a test lets fail cleanly, without retries."""


@dataclass(frozen=True)
class Finding:
    """What did not hold.

    Args:
        step: the step to which something happened; empty: to none.
        way: what happened to it, one of :data:`WAYS`.
        what: what should not be.
    """

    step: str
    way: str
    what: str


@dataclass
class Rollbacks:
    """What was tried.

    Args:
        runs: how many runs of the saga.
        steps: names of the steps that were run, in the order of a run without trouble.
        findings: what did not hold; none where :func:`assert_rolls_back_everywhere` returns.
    """

    runs: int = 0
    steps: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.findings)} of {self.runs} runs did not end as they should:"]
        width = max((len(each.step) for each in self.findings), default=0)
        ways = max((len(each.way) for each in self.findings), default=0)
        for each in self.findings:
            first, *more = each.what.splitlines() or [""]
            lines.append(f"  {each.step:<{width}}  {each.way:<{ways}}  {first}")
            lines += [" " * (width + ways + 6) + line.strip() for line in more]
        return "\n".join(lines)


def assert_rolls_back_everywhere(
    saga: Startable,
    context: Mapping[str, Any] | None = None,
    *,
    state: Callable[[], Any] | None = None,
    effects: EffectLog | None = None,
    reset: Callable[[], None] | None = None,
    signals: Mapping[str, Any] | None = None,
    ways: Collection[str] = WAYS,
    accept_stuck: Collection[str] = (),
) -> Rollbacks:
    """Run a saga again and again: each step fails in each way, and the rollback is complete.

    Args:
        saga: a committed saga; its steps are those of a run with this context.
        context: the values that it begins with.
        state: returns what the steps change, as a value that can be compared: rows, counts...
        effects: a log to which the test's doubles report; with it ``state`` may be left out.
        reset: is called before each run.
        signals: what the saga waits for, with payloads.
        ways: what happens to the steps, of :data:`WAYS`.
        accept_stuck: steps without a compensation whose outcome may stay unknown: an operator
            decides then. All other steps must be rolled back all the same.

    Raises:
        AssertionError: a table of the steps and ways in which something did not hold.
        ValueError: there is neither ``state`` nor ``effects``, or a way or step is not known.
    """
    _check_arguments(state, effects, ways)
    world = _World(state, effects, reset)
    tried = _Trial(saga, dict(context or {}), dict(signals or {}), world, frozenset(accept_stuck))
    try:
        found = tried.all(ways)
    finally:
        world.forget()
    if found.findings:
        raise AssertionError(str(found))
    return found


def _check_arguments(state: Any, effects: Any, ways: Collection[str]) -> None:
    if state is None and effects is None:
        raise ValueError(
            "assert_rolls_back_everywhere: give it state=, a function that returns what the steps "
            "change, or effects=, the EffectLog of the test's doubles: a status alone does not "
            "show whether a compensation did its work"
        )
    unknown = sorted(set(ways).difference(WAYS))
    if unknown:
        raise ValueError(f"ways: expected some of {', '.join(map(repr, WAYS))}, found {unknown}")


@dataclass(frozen=True)
class _World:
    """What the steps change."""

    state: Callable[[], Any] | None
    effects: EffectLog | None
    reset: Callable[[], None] | None

    def renew(self) -> None:
        self.forget()
        if self.reset is not None:
            self.reset()

    def forget(self) -> None:
        """Leave nothing of the runs in the test's log."""
        if self.effects is not None:
            self.effects.clear()

    def seen(self) -> Any:
        state = None if self.state is None else copy.deepcopy(self.state())
        left = [] if self.effects is None else sorted(it.what for it in self.effects.left)
        return state, left

    def problems(self) -> list[str]:
        return [] if self.effects is None else list(self.effects.problems)


class _Trial:
    """All runs of one saga."""

    def __init__(
        self,
        saga: Startable,
        context: Mapping[str, Any],
        signals: Mapping[str, Any],
        world: _World,
        accept_stuck: frozenset[str],
    ) -> None:
        self._saga, self._context, self._signals = saga, context, signals
        self._world, self._accept_stuck = world, accept_stuck
        self._plan: Plan = saga.plan
        self._found = Rollbacks()

    def all(self, ways: Collection[str]) -> Rollbacks:
        self._world.renew()
        found, run = self._found, self._ran(self._scenario())
        if run.status is not SagaStatus.COMPLETED:
            raise AssertionError(f"without any trouble, the saga should be COMPLETED\n{run}")
        paths = self._paths(run)
        found.steps = tuple(paths)
        unknown = self._accept_stuck.difference(found.steps)
        if unknown:
            raise ValueError(f"accept_stuck: no such steps were run: {sorted(unknown)}")
        before = [name for name in paths if self._rolls_back(paths[name])]
        for way in (way for way in WAYS if way in ways):
            for name in paths:
                if way == "runs twice":
                    self._run_twice(name, before)
                elif name in before and way in ACTION_WAYS:
                    self._fail_action(name, way)
                elif name in before and self._compensated(paths[name]):
                    self._fail_compensation(name, way, before[-1])
        return found

    def _paths(self, run: Run) -> dict[str, tuple[int, ...]]:
        """The steps that a run without trouble has run, by name, in their order."""
        execution = run.execution
        names = {execution.plan.name_of(path): path for path, _ in execution.steps.items()}
        ran = dict.fromkeys(each.step for each in run.trail)
        return {name: names[name] for name in ran if self._is_step(names[name])}

    def _is_step(self, path: tuple[int, ...]) -> bool:
        return isinstance(self._plan.at(path), PlanStep)

    def _compensated(self, path: tuple[int, ...]) -> bool:
        first = self._plan.first_of(path)
        return any(
            at == first and direction is Direction.COMPENSATION
            for at, _, direction in self._plan.calls()
        )

    def _rolls_back(self, path: tuple[int, ...]) -> bool:
        """Whether the saga can be rolled back from a step: it is not past the pivot."""
        pivot = self._plan.pivot
        if self._plan.committed(path):
            return False
        return pivot is None or path == pivot or self._plan.ends_before(path, pivot)

    def _fail_action(self, name: str, way: str) -> None:
        kind = ACTION_WAYS[way]
        if self._plan.pivot is not None and kind is not Kind.FAILS and self._is_pivot(name):
            return  # its outcome is found out by running it again, not rolled back
        fault = Fault(name, "f", kind, error=AbortedByTheTest("this test lets it fail"))
        self._check(name, way, [fault])

    def _is_pivot(self, name: str) -> bool:
        pivot = self._plan.pivot
        return pivot is not None and self._plan.name_of(pivot) == name

    def _fail_compensation(self, name: str, way: str, last: str) -> None:
        error = RuntimeError("this test lets it fail once")
        kind = COMPENSATION_WAYS[way]
        if kind is Kind.TWICE:
            twice, seen = self._twice(name, "c")
            self._check(name, way, [twice, self._last_fails(name, last)], seen)
        else:
            fault = Fault(name, "c", kind, 1, error)
            self._check(name, way, [fault, self._last_fails(name, last)])

    def _last_fails(self, name: str, last: str) -> Fault:
        """The last step fails; where its own compensation is to run, after its body."""
        kind = Kind.LIMIT if name == last else Kind.FAILS
        return Fault(last, "f", kind, error=AbortedByTheTest("this test lets it fail"))

    def _run_twice(self, name: str, before: list[str]) -> None:
        fault, seen = self._twice(name, "f")
        self._world.renew()
        run = self._ran(self._scenario([fault]))
        if run.status is not SagaStatus.COMPLETED:
            self._note(name, "runs twice", f"the saga should be COMPLETED\n{run}")
        self._compare(name, "runs twice", seen)
        for problem in self._world.problems():
            self._note(name, "runs twice", problem)
        if name in before[:-1]:
            fault, seen = self._twice(name, "f")
            self._check(
                name, "runs twice, then a rollback", [fault, self._last_fails("", before[-1])]
            )

    def _twice(self, name: str, direction: str) -> tuple[Fault, list[Any]]:
        """A body that runs twice, and what there was after each time."""
        seen: list[Any] = []
        look = self._world.seen
        return Fault(name, direction, Kind.TWICE, 1, seen=lambda: seen.append(look())), seen

    def _compare(self, name: str, way: str, seen: list[Any]) -> None:
        if len(seen) == 2 and seen[0] != seen[1]:
            text = f"the second time changed {_differences(*seen)}"
            self._note(name, way, text)

    def _check(
        self, name: str, way: str, faults: list[Fault], seen: list[Any] | None = None
    ) -> None:
        """Run the saga with these faults: it must be rolled back without a trace."""
        self._world.renew()
        before = self._world.seen()
        run = self._ran(self._scenario(faults))
        self._compare(name, way, seen or [])
        if run.unused:
            self._note(name, way, f"{run.unused[0]}: it was not run")
        for problem in self._world.problems():
            self._note(name, way, problem)
        after = self._world.seen()
        if run.status is SagaStatus.STUCK and name in self._accept_stuck:
            self._check_others(name, way, run)
        elif run.status is not SagaStatus.COMPENSATED:
            self._note(name, way, self._wrong_end(run))
        elif after != before:
            self._note(name, way, f"the rollback left {_differences(before, after)}")

    def _check_others(self, name: str, way: str, run: Run) -> None:
        """At an accepted end in STUCK, all other steps must be compensated."""
        for step in run.execution.steps:
            if step.effect and step.name != name:
                self._note(name, way, f"step {step.name!r} was not compensated: {step.status}")

    def _wrong_end(self, run: Run) -> str:
        execution, obstacle = run.execution, obstacle_of(run.execution)
        if obstacle is None or run.status is not SagaStatus.STUCK:
            return f"it should be COMPENSATED, and is {run.status}\n{run}"
        text, name = f"STUCK at {obstacle.step!r}: {obstacle.cause}", obstacle.step
        paths = [path for path, _ in execution.steps.items()]
        at = next((path for path in paths if execution.plan.name_of(path) == name), None)
        if at is None or self._compensated(at):
            return text
        return (
            f"{text}\ngive it a compensation, on_lost='rerun' or read_only=True, or say "
            f"accept_stuck=[{name!r}]"
        )

    def _ran(self, scenario: Scenario) -> Run:
        self._found.runs += 1
        return scenario.run()

    def _scenario(self, faults: list[Fault] | None = None) -> Scenario:
        scenario = SagaKit(self._world.effects).given(self._saga).context(self._context)
        for name, payload in self._signals.items():
            scenario = scenario.signal(name, payload)
        for fault in faults or ():
            scenario = scenario.with_fault(fault)
        return scenario

    def _note(self, step: str, way: str, what: str) -> None:
        self._found.findings.append(Finding(step, way, what))


def _differences(before: tuple[Any, Any], after: tuple[Any, Any]) -> str:
    """What two looks at the world have different."""
    found = list(_changes(before[0], after[0]))
    if before[1] != after[1]:
        found.append(f"effects {before[1]} -> {after[1]}")
    return "; ".join(found)


def _changes(before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            if before.get(key) != after.get(key):
                yield f"{key!r}: {before.get(key)!r} -> {after.get(key)!r}"
    elif before != after:
        yield f"{before!r} -> {after!r}"
