"""Every state that a saga can get into, found by letting everything happen that may happen.

The walk is breadth first over worlds. A world is an execution, the bodies (task functions) that
still run, and the truth of what has taken effect; the state machine knows only what is reported to
it. In each world an adversary may

- let any message that was ever sent arrive again, with any Celery retry count that exists;
- let a body that has the claim succeed, fail cleanly, fail with a possible effect, raise Celery's
  retry, or lose its process, with or without having taken effect;
- let a body live on after its claim was declared void (a zombie): it takes effect later, reports
  late, and may report success or a possible effect;
- let reports come twice, at once and at any later time, and reports of stale refs at any time;
- let a message be lost each time that it is sent, or be run by a worker that claims nothing;
- let the report come that the result of a settled saga is stored, or of one that continued since;
- cancel, pause and resume, let time pass (which includes a deadline), let workers not know a task,
  and use an operator's verbs on a stuck saga.

:class:`Bounds` says how often; everything else has no bound. Worlds that differ only in times,
texts and history are one.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from celery_saga.core import events as ev
from celery_saga.core.decide.claims import claimed
from celery_saga.core.execution import (
    SETTLED,
    TERMINAL,
    Claim,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Choice, Path, Plan, Sleep, Wait
from tests.core.promises import BOOM, LONG, Complaint, Found, Promises, time_after
from tests.core.worlds import (
    FORWARD,
    Body,
    Bounds,
    Truth,
    World,
    forgiven,
    key_of,
    took_effect,
    with_truth,
    without,
)
from tests.invariants import Invariant


class Violation(Exception):
    """The state machine broke invariants.

    Args:
        broken: each, with the shortest history that does it.
    """

    def __init__(self, broken: Mapping[Complaint, str]) -> None:
        super().__init__("\n\n".join(f"{each}:\n{way}" for each, way in broken.items()))
        self.invariants = {each.invariant for each in broken}
        #: Of which saga.
        self.where = ""

    def __str__(self) -> str:
        return self.where + super().__str__()


class Walk:
    """All reachable worlds of one plan.

    Args:
        plan: of the saga.
        bounds: how often the adversary may do what would not end otherwise.
        deadline: whether the saga has one; any look at it may come after it then.
        result: whether its result is to be stored, and callers are to be notified.
        values: its context at the start.
    """

    def __init__(
        self,
        plan: Plan,
        bounds: Bounds,
        *,
        deadline: bool = False,
        result: bool = False,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan = plan
        self._promises = Promises(plan, values)
        self.found = self._promises.found
        until = LONG / 2 if deadline else None
        execution = SagaExecution.create("s", plan, values or {}, at=0.0, deadline=until)
        execution = replace(execution, wants_result=result, callbacks={} if result else None)
        self._first = World(execution, dict.fromkeys(self._promises.tasks, Truth()), bounds)
        #: What is broken -> history.
        self.broken: dict[Complaint, str] = {}
        self._came_from: dict[object, tuple[object, str]] = {}
        self._continued: dict[object, object] = {}

    def run(self, until: Invariant | None = None) -> Found:
        """Walk through all worlds, or until this invariant is found broken.

        Raises:
            Violation: names each invariant that is broken, with the shortest history that does it.
        """
        key: object = key_of(self._first)
        self._came_from[key] = (None, "")
        todo = deque([(key, self._first)])
        while todo:
            key, world = todo.popleft()
            self.found.statuses.add(world.execution.status)
            self.found.step_statuses.update(step.status for step in world.execution.steps)
            self._promises.probe(world)
            self._note(key, "then a report that comes late")
            if until in {complaint.invariant for complaint in self.broken}:
                break
            for label, then, fair in self._moves(world):
                self._note(key, label)
                after = key_of(then)
                self.found.transitions += 1
                if fair:
                    self._continued[key] = after
                if after not in self._came_from:
                    self._came_from[after] = (key, label)
                    todo.append((after, then))
        self.found.worlds = len(self._came_from)
        self._check_continuation()
        self._complain()
        return self.found

    def wander(self, generator: random.Random, most: int = 200) -> int:
        """Go one random way, then on as if nothing bad happened any more; how long it was.

        Raises:
            Violation: as :meth:`run`, with the way.
        """
        world, length = self._first, 0
        self._came_from[0] = (None, "")
        for length in itertools.count(1):
            self._promises.probe(world)
            self._note(length - 1, "then a report that comes late")
            moves = []
            for move in self._moves(world):
                self._note(length - 1, move[0])
                moves.append(move)
            if length > most:
                moves = [move for move in moves if move[2]]
            if not moves or length > 2 * most or self.broken:
                break
            fair = [move for move in moves if move[2]]
            label, world, _ = generator.choice(fair if fair and generator.random() < 0.7 else moves)
            self._came_from[length] = (length - 1, label)
        self._complain()
        settled = world.execution.settled
        self._promises.require(Invariant.SETTLES, settled, "a saga never settles")
        self._note(length - 1, "and nothing bad any more")
        self._complain()
        return length

    def _complain(self) -> None:
        if self.broken:
            raise Violation(self.broken)

    def _note(self, key: object, label: str) -> None:
        for complaint in self._promises.complaints:
            self.broken.setdefault(complaint, "\n".join([*self._way_to(key), label]))
        self._promises.complaints.clear()

    def _way_to(self, key: object) -> list[str]:
        labels: list[str] = []
        while key is not None:
            key, label = self._came_from[key]
            labels.append(label)
        return labels[-2::-1]

    def _check_continuation(self) -> None:
        """Where nothing bad happens any more, every saga settles."""
        settles: set[object] = set()
        for start in self._came_from:
            way: set[object] = set()
            key = start
            while key in self._continued and key not in settles:
                way.add(key)
                key = self._continued[key]
                if key in way:
                    self._promises.require(Invariant.SETTLES, False, "a saga never settles")
                    self._note(start, "and nothing bad any more")
                    break
            settles |= way

    def _after(self, world: World, event: ev.Event, body: Body | None = None) -> World:
        return self._promises.after(world, event, body)

    # What may happen. Each move is a label, the world after it, and whether it is the one with
    # which the world continues if nothing bad happens any more.

    def _moves(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        if execution.status is SagaStatus.CREATED and execution.due_at is None:
            now = time_after(execution)
            yield "start", self._after(world, ev.Started(now)), True
            yield "start later", self._after(world, ev.Started(now, now + 60)), False
            return
        yield from self._deliveries(world)
        for body in world.bodies:
            yield from self._ends(world, body)
        yield from self._time_passes(world)
        yield from self._signals(world)
        yield from self._requests(world)

    def _deliveries(self, world: World) -> Iterator[tuple[str, World, bool]]:
        for ref in world.execution.active:
            yield from self._delivered(world, ref)

    def _delivered(self, world: World, ref: StepRef) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        step = execution.steps[ref.path]
        fair = execution.status is not SagaStatus.PAUSED and step.claim is None
        for retries in sorted({0, step.retries, *([1] if world.retried == ref else [])}):
            body = Body(ref, retries, step.compensation_round, "running")
            claim = Claim(body.token, "w", retries, time_after(execution))
            taken = claimed(execution, ref, claim)
            if taken is not None and taken is not execution:
                then = world._replace(execution=taken, bodies=(*world.bodies, body))
                self._promises.begins(world, then, ref)
                yield f"claim {body.token}", then, fair and retries == step.retries
        if step.claim is None and world.left.unknown:
            yield from self._unclaimed(world, ref)

    def _unclaimed(self, world: World, ref: StepRef) -> Iterator[tuple[str, World, bool]]:
        """What a worker may report of a message whose task it has not begun."""
        execution = world.execution
        spent = world._replace(left=world.left.less(unknown=1))
        event = ev.TaskUnknown(time_after(execution, LONG), ref)
        yield f"unknown {ref}", self._after(spent, event), False
        died = ev.ClaimVoided(time_after(execution), ref, instance="w", started=True)
        yield f"{ref} dies before it begins", self._after(spent, died), False
        for retries in sorted({0, execution.steps[ref.path].retries}):
            failed = ev.StepFailed(time_after(execution), ref, BOOM, retries=retries)
            yield f"{ref}/{retries} fails before it begins", self._after(spent, failed), False

    def _ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        if body.state == "retried":
            yield from self._retry_reported(world, body)
        elif body.state in ("zombie", "loose"):
            yield from self._zombie_ends(world, body)
        elif isinstance(self._plan.at(body.ref.path), Choice):
            yield from self._condition_ends(world, body)
        elif body.ref.direction is FORWARD:
            yield from self._forward_ends(world, body)
        else:
            yield from self._compensation_ends(world, body)
        alive = world.execution.steps[body.ref.path].claim
        if body.state == "running" and body.retries == 0 and world.left.retries:
            changed = body._replace(state="retried")
            bodies = tuple(changed if each is body else each for each in world.bodies)
            then = world._replace(bodies=bodies, left=world.left.less(retries=1))
            yield f"{body.token} raises Retry", then._replace(retried=body.ref), False
        if alive is not None and alive.token == body.token and world.left.voids:
            yield from self._voided(world, body)

    def _forward_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        at, after = time_after(world.execution), without(world, body)
        update = self._promises.result_of(world.execution, body.ref)
        event = ev.StepSucceeded(at, body.ref, body.token, update)
        done = self._after(took_effect(after, body), event, body)
        yield f"{body.token} ok", done, _fair(world)
        if not world.left.failures:
            return
        after = after._replace(left=after.left.less(failures=1))
        failed = ev.StepFailed(at, body.ref, BOOM, body.token)
        yield f"{body.token} fails", self._after(after, failed, body), False
        if self._plan.linear or self._plan.step(body.ref.path).action.max_attempts != 1:
            final = replace(failed, final=True)
            yield f"{body.token} fails final", self._after(after, final, body), False
        maybe = replace(failed, effect=True)
        done = self._after(took_effect(after, body), maybe, body)
        yield f"{body.token} fails, it took effect", done, False

    def _condition_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        at, after = time_after(world.execution), without(world, body)
        for answer in (True, False):
            event = ev.StepSucceeded(at, body.ref, body.token, answer=answer)
            yield f"{body.token} is {answer}", self._after(after, event, body), _fair(world)
        if world.left.failures:
            failed = ev.StepFailed(at, body.ref, BOOM, body.token)
            spent = after._replace(left=after.left.less(failures=1))
            yield f"{body.token} fails", self._after(spent, failed, body), False

    def _compensation_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        at, after = time_after(world.execution), without(world, body)
        update = self._promises.result_of(world.execution, body.ref)
        event = ev.StepSucceeded(at, body.ref, body.token, update)
        done = self._after(took_effect(after, body), event, body)
        yield f"{body.token} ok", done, _fair(world)
        if world.left.failures:
            failed = ev.StepFailed(at, body.ref, BOOM, body.token)
            spent = after._replace(left=after.left.less(failures=1))
            yield f"{body.token} fails", self._after(spent, failed, body), False

    def _retry_reported(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        event = ev.StepReleased(time_after(world.execution), body.ref, body.token, 1, 0.0)
        held = world.execution.steps[body.ref.path].claim
        fair = _fair(world) and held is not None and held.token == body.token
        then = self._after(without(world, body), event, body)
        yield f"{body.token} is released", then, fair

    def _voided(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        event = ev.ClaimVoided(time_after(world.execution), body.ref, body.token)
        spent = world._replace(left=world.left.less(voids=1))
        rest = without(spent, body)
        yield f"{body.token} is void", self._after(rest, event, body), False
        if body.state == "retried":
            return
        done = self._after(took_effect(rest, body), event, body)
        yield f"{body.token} is void, it took effect", done, False
        if body.ref.direction is FORWARD and world.left.zombies:
            zombie = (*rest.bodies, body._replace(state="zombie"))
            then = rest._replace(bodies=zombie, left=rest.left.less(zombies=1))
            yield (
                f"{body.token} is void and lives on",
                self._after(then, event, body),
                False,
            )

    def _zombie_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        """A late body takes effect first; what it reports then comes later, or never."""
        if body.state == "zombie":
            yield f"{body.token} ends late", without(world, body), False
            loose = took_effect(without(world, body), body)
            then = loose._replace(bodies=(*loose.bodies, body._replace(state="loose")))
            yield f"{body.token} takes effect late", then, False
            return
        event = ev.StepSucceeded(time_after(world.execution), body.ref, body.token)
        yield (
            f"{body.token} ok, late",
            self._after(without(world, body), event, body),
            False,
        )
        failed = ev.StepFailed(event.at, body.ref, BOOM, body.token, effect=True)
        yield (
            f"{body.token} fails late",
            self._after(without(world, body), failed, body),
            False,
        )

    def _time_passes(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        if execution.settled:
            yield from self._result_stored(world)
            return
        refs = [ref for ref in execution.active if execution.steps[ref.path].claim is None]
        fair = _fair(world) and not execution.active
        event = ev.Overdue(time_after(execution, LONG), ev.MessageState.MISSING)
        yield "overdue", self._overdue(world, event), fair
        for ref in refs:
            for state in _FOUND if world.left.looks else ():
                messages = {ref: state}
                event = ev.Overdue(time_after(execution, LONG), messages=messages)
                yield f"overdue, {ref} is {state.value}", self._overdue(world, event), False
            if world.left.losses:
                yield from self._missed(world, ref)
        if execution.deadline is not None or any(is_waiting(execution)):
            at = time_after(execution)
            early = at if execution.deadline is None else min(at, execution.deadline - 1)
            event = ev.Overdue(early, ev.MessageState.MISSING)
            yield "overdue early", self._after(world, event), False

    def _overdue(self, world: World, event: ev.Overdue) -> World:
        """The world after a look; a message that is lost is found the next time."""
        before, then = world.execution, self._after(world, event)
        found = then.execution
        for ref in before.active:
            if ref in found.active:
                found = found.with_step(ref.path, unclaimed=before.steps[ref.path].unclaimed)
        return then._replace(execution=found)

    def _missed(self, world: World, ref: StepRef) -> Iterator[tuple[str, World, bool]]:
        """A message that no worker has, up to the last time; one without the plugin may run it."""
        spent = world._replace(left=world.left.less(losses=1))
        at = time_after(world.execution, LONG)
        for state in (ev.MessageState.MISSING, ev.MessageState.NOWHERE):
            event = ev.Overdue(at, messages={ref: state})
            then = self._after(spent, event)
            yield f"{ref} is {state.value}", then, False
            error = then.execution.steps[ref.path].error
            ended = error is not None and error.type == "NeverClaimed"
            if ended and ref.direction is FORWARD and state is ev.MessageState.MISSING:
                truth = spent.truth[ref.path]._replace(standing=True)
                truth = truth._replace(debt=truth.sent + 1)
                ran = with_truth(spent, ref.path, truth)
                yield f"a worker without the plugin runs {ref}", self._after(ran, event), False

    def _result_stored(self, world: World) -> Iterator[tuple[str, World, bool]]:
        """The report that the result is stored may be older than what the saga has become since."""
        execution, at = world.execution, time_after(world.execution)
        if execution.result_pending:
            yield "overdue", self._after(world, ev.Overdue(at)), False
        for status in SETTLED if execution.wants_result else ():
            fair = execution.result_pending and status is execution.status
            yield f"{status} is stored", self._after(world, ev.ResultStored(at, status)), fair

    def _signals(self, world: World) -> Iterator[tuple[str, World, bool]]:
        """A signal may come before its wait, twice, and when its time has passed."""
        execution, at = world.execution, time_after(world.execution)
        for path in self._promises.waits:
            name, waits = self._plan.signal_of(path), path in is_waiting(execution)
            if not waits and not world.left.signals:
                continue
            spent = world if waits else world._replace(left=world.left.less(signals=1))
            event = ev.SignalReceived(at, name, "true", "t")
            fair = waits and _fair(world) and not execution.active
            yield f"signal {name}", self._after(spent, event), fair

    def _requests(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution, left, at = world.execution, world.left, time_after(world.execution)
        if left.cancels and execution.status not in TERMINAL:
            spent = world._replace(left=left.less(cancels=1))
            yield "cancel", self._after(spent, ev.CancelRequested(at)), False
        if execution.status is SagaStatus.PAUSED:
            yield "resume", self._after(world, ev.ResumeRequested(at)), True
        elif left.pauses and not execution.settled:
            spent = world._replace(left=left.less(pauses=1))
            yield "pause", self._after(spent, ev.PauseRequested(at)), False
        if left.verbs and execution.status is SagaStatus.STUCK:
            spent = world._replace(left=left.less(verbs=1))
            yield "retry", self._after(spent, ev.RetryRequested(at)), False
            yield "skip", self._after(forgiven(spent), ev.SkipRequested(at)), False
            for status in TERMINAL:
                said = forgiven(spent, status)
                event = ev.ResolveRequested(at, status)
                yield f"resolve {status}", self._after(said, event), False


#: What a look may find of a message, beside that it is lost.
_FOUND = (
    ev.MessageState.LOST_WITH_WORKER,
    ev.MessageState.POSSIBLY_QUEUED,
    ev.MessageState.WAITING,
)


def is_waiting(execution: SagaExecution) -> list[Path]:
    """Paths of what waits for a signal or a time."""
    waiting = (path for path, it in execution.steps.items() if it.status is StepStatus.WAITING)
    return [path for path in waiting if isinstance(execution.plan.at(path), Wait | Sleep)]


def _fair(world: World) -> bool:
    return world.execution.status is not SagaStatus.PAUSED
