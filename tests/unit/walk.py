"""Every state that a saga can get into, found by letting everything happen that may happen.

The walk is breadth first over worlds. A world is an execution, the bodies (task functions) that
still run, and the truth of what has taken effect; the state machine knows only what is reported to
it. In each world an adversary may

- let any message that was ever sent arrive again, with any Celery retry count that exists;
- let a body that has the claim succeed, fail cleanly, fail with a possible effect, raise Celery's
  retry, or lose its process, with or without having taken effect;
- let a body live on after its claim was declared void (a zombie): it takes effect later, reports
  late, and may report success or a possible effect;
- let reports come twice, at once and at any later time, and reports of stale slots at any time;
- cancel, pause and resume, let time pass (which includes a deadline), let workers not know a task,
  and use an operator's verbs on a stuck saga.

:class:`Bounds` says how often; everything else has no bound. Worlds that differ only in times,
texts and history are one.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, NamedTuple

from celery_saga.claims import claimed
from celery_saga.decide import decide
from celery_saga.decide import events as ev
from celery_saga.execution import (
    SETTLED,
    TERMINAL,
    Claim,
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    Slot,
    StepStatus,
)
from celery_saga.plan import Plan

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
BOOM = Failure("Boom", "it broke")
#: Long enough for every delay to be over.
LONG = 100_000.0


class Bounds(NamedTuple):
    """How often each thing may happen in one saga; also the counters of a world, which count down.

    Bounded by the plan: void claims of one step, attempts of an undo and after the pivot.
    """

    voids: int = 2
    zombies: int = 1
    retries: int = 1
    cancels: int = 1
    pauses: int = 0
    verbs: int = 0
    unknown: int = 0

    def less(self, **fewer: int) -> Bounds:
        """These bounds after something happened."""
        return self._replace(**{name: getattr(self, name) - by for name, by in fewer.items()})


class Body(NamedTuple):
    """A task function that runs, or has ended and is not heard of yet."""

    slot: Slot
    retries: int
    undo_round: int
    #: ``running``; ``retried``: Celery has its retry, the saga does not know;
    #: ``zombie``: the claim is void; ``loose``: so it is, and the effect has happened since.
    state: str

    @property
    def token(self) -> str:
        """Of its claim."""
        return f"{self.slot}/{self.retries}"


class Truth(NamedTuple):
    """What is the case with one step, apart from what the state machine has in its records."""

    #: The effect is there.
    standing: bool = False
    #: The highest undo round that was carried out; an undo of the same round does nothing.
    undone: int = -1
    #: The highest undo round that was sent.
    sent: int = -1
    #: An effect was reported or may exist: an undo of this round or a later one settles it.
    debt: int | None = None
    #: The debt arose on the way back.
    late: bool = False


class World(NamedTuple):
    """A state of the walk."""

    execution: SagaExecution
    truth: tuple[Truth, ...]
    left: Bounds
    bodies: tuple[Body, ...] = ()
    #: Slot, Celery retries and whether it was a failure, of reported effects.
    heard: frozenset[tuple[Slot, int, bool]] = frozenset()
    #: The slot for which Celery has a message with one retry.
    retried: Slot | None = None
    #: An operator has said how it ended.
    by_hand: bool = False


class Violation(Exception):
    """The state machine broke a promise."""


@dataclass
class Found:
    """What a walk has seen."""

    worlds: int = 0
    transitions: int = 0
    checks: int = 0
    statuses: set[SagaStatus] = field(default_factory=set)
    step_statuses: set[StepStatus] = field(default_factory=set)


class Walk:
    """All reachable worlds of one plan.

    Args:
        plan: of the saga.
        bounds: how often the adversary may do what would not end otherwise.
        deadline: whether the saga has one; any look at it may come after it then.
    """

    def __init__(self, plan: Plan, bounds: Bounds, *, deadline: bool = False) -> None:
        self.plan = plan
        self.undoable = [step.compensation is not None for step in plan.steps]
        until = LONG / 2 if deadline else None
        execution = SagaExecution.create("s", plan, {}, at=0.0, deadline=until)
        self.first = World(execution, (Truth(),) * len(plan.steps), bounds)
        self.found = Found()
        #: Promise that is broken -> history.
        self.broken: dict[str, str] = {}
        self._complaints: list[str] = []
        self._came_from: dict[object, tuple[object, str]] = {}
        self._continued: dict[object, object] = {}
        self._probed: set[object] = set()

    def run(self) -> Found:
        """Walk through all worlds.

        Raises:
            Violation: names each promise that is broken, with the shortest history that does it.
        """
        key: object = key_of(self.first)
        self._came_from[key] = (None, "")
        todo = deque([(key, self.first)])
        while todo:
            key, world = todo.popleft()
            self.found.statuses.add(world.execution.status)
            self.found.step_statuses.update(step.status for step in world.execution.steps)
            self._probe(world)
            self._note(key, "then a report that comes late")
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
        world, length = self.first, 0
        self._came_from[0] = (None, "")
        for length in itertools.count(1):
            self._probe(world)
            self._note(length - 1, "then a report that comes late")
            moves = list(self._moves(world))
            self._note(length - 1, "one of the moves that may follow")
            if length > most:
                moves = [move for move in moves if move[2]]
            if not moves or length > 2 * most or self.broken:
                break
            fair = [move for move in moves if move[2]]
            label, world, _ = generator.choice(fair if fair and generator.random() < 0.7 else moves)
            self._came_from[length] = (length - 1, label)
        self._complain()
        self._require(world.execution.settled, "a saga never settles")
        self._note(length - 1, "and nothing bad any more")
        self._complain()
        return length

    def _complain(self) -> None:
        if self.broken:
            raise Violation("\n\n".join(f"{text}:\n{way}" for text, way in self.broken.items()))

    def _note(self, key: object, label: str) -> None:
        for text in self._complaints:
            self.broken.setdefault(text, "\n".join([*self._way_to(key), label]))
        self._complaints.clear()

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
                    self._complaints.append("a saga never settles")
                    self._note(start, "and nothing bad any more")
                    break
            settles |= way

    # What may happen. Each move is a label, the world after it, and whether it is the one with
    # which the world goes on if nothing bad happens any more.

    def _moves(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        if execution.status is SagaStatus.CREATED and execution.due_at is None:
            now = _now(execution)
            yield "start", self._event(world, ev.Started(now)), True
            yield "start later", self._event(world, ev.Started(now, now + 60)), False
            return
        yield from self._deliveries(world)
        for body in world.bodies:
            yield from self._ends(world, body)
        yield from self._time_passes(world)
        yield from self._requests(world)

    def _deliveries(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        slot = execution.slot(execution.position)
        if slot is None:
            return
        step = execution.steps[slot.step]
        fair = execution.status is not SagaStatus.PAUSED and step.claim is None
        for retries in sorted({0, step.retries, *([1] if world.retried == slot else [])}):
            body = Body(slot, retries, step.undo_round, "running")
            claim = Claim(body.token, "w", retries, _now(execution))
            taken = claimed(execution, slot, claim)
            if taken is not None and taken is not execution:
                then = world._replace(execution=taken, bodies=(*world.bodies, body))
                self._check(world, then, None)
                yield f"claim {body.token}", then, fair and retries == step.retries
        if step.claim is None and world.left.unknown:
            event = ev.TaskUnknown(_now(execution, LONG), slot)
            spent = world._replace(left=world.left.less(unknown=1))
            yield f"unknown {slot}", self._event(spent, event), False

    def _ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        if body.state == "retried":
            yield from self._retry_reported(world, body)
        elif body.state in ("zombie", "loose"):
            yield from self._zombie_ends(world, body)
        elif body.slot.direction is FORWARD:
            yield from self._forward_ends(world, body)
        else:
            yield from self._undo_ends(world, body)
        alive = world.execution.steps[body.slot.step].claim
        if body.state == "running" and body.retries == 0 and world.left.retries:
            changed = body._replace(state="retried")
            bodies = tuple(changed if each is body else each for each in world.bodies)
            then = world._replace(bodies=bodies, left=world.left.less(retries=1))
            yield f"{body.token} raises Retry", then._replace(retried=body.slot), False
        if alive is not None and alive.token == body.token and world.left.voids:
            yield from self._voided(world, body)

    def _forward_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        after = _without(world, body)
        event = ev.StepSucceeded(_now(world.execution), body.slot, body.token)
        yield f"{body.token} ok", self._event(_effect(after, body), event, body), _fair(world)
        failed = ev.StepFailed(_now(world.execution), body.slot, BOOM, body.token)
        yield f"{body.token} fails", self._event(after, failed, body), False
        final = replace(failed, final=True)
        yield f"{body.token} fails final", self._event(after, final, body), False
        maybe = replace(failed, effect=True)
        done = self._event(_effect(after, body), maybe, body)
        yield f"{body.token} fails, it took effect", done, False

    def _undo_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        after = _without(world, body)
        event = ev.StepSucceeded(_now(world.execution), body.slot, body.token)
        yield f"{body.token} ok", self._event(_effect(after, body), event, body), _fair(world)
        failed = ev.StepFailed(_now(world.execution), body.slot, BOOM, body.token)
        yield f"{body.token} fails", self._event(after, failed, body), False

    def _retry_reported(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        event = ev.StepReleased(_now(world.execution), body.slot, body.token, 1, 0.0)
        held = world.execution.steps[body.slot.step].claim
        fair = _fair(world) and held is not None and held.token == body.token
        then = self._event(_without(world, body), event, body)
        yield f"{body.token} is released", then, fair

    def _voided(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        event = ev.ClaimVoided(_now(world.execution), body.slot, body.token)
        spent = world._replace(left=world.left.less(voids=1))
        gone = _without(spent, body)
        yield f"{body.token} is void", self._event(gone, event, body), False
        if body.state == "retried":
            return
        done = self._event(_effect(gone, body), event, body)
        yield f"{body.token} is void, it took effect", done, False
        if body.slot.direction is FORWARD and world.left.zombies:
            zombie = (*gone.bodies, body._replace(state="zombie"))
            then = gone._replace(bodies=zombie, left=gone.left.less(zombies=1))
            yield f"{body.token} is void and lives on", self._event(then, event, body), False

    def _zombie_ends(self, world: World, body: Body) -> Iterator[tuple[str, World, bool]]:
        """A late body takes effect first; what it reports then comes later, or never."""
        if body.state == "zombie":
            yield f"{body.token} ends late", _without(world, body), False
            loose = _effect(_without(world, body), body)
            then = loose._replace(bodies=(*loose.bodies, body._replace(state="loose")))
            yield f"{body.token} takes effect late", then, False
            return
        event = ev.StepSucceeded(_now(world.execution), body.slot, body.token)
        yield f"{body.token} ok, late", self._event(_without(world, body), event, body), False
        failed = ev.StepFailed(event.at, body.slot, BOOM, body.token, effect=True)
        yield f"{body.token} fails late", self._event(_without(world, body), failed, body), False

    def _time_passes(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution = world.execution
        if execution.settled:
            return
        step, slot = execution.steps[execution.position], execution.slot(execution.position)
        fair = execution.status is not SagaStatus.PAUSED and slot is None
        states = [ev.MessageState.GONE]
        if slot is not None and step.claim is None:
            states += [ev.MessageState.LOST, ev.MessageState.QUEUED, ev.MessageState.HELD]
        for state in states:
            looked = ev.Looked(_now(execution, LONG), state)
            yield f"looked {state.value}", self._event(world, looked), fair
        if execution.deadline is not None:
            early = ev.Looked(min(_now(execution), execution.deadline - 1), ev.MessageState.GONE)
            yield "looked early", self._event(world, early), False

    def _requests(self, world: World) -> Iterator[tuple[str, World, bool]]:
        execution, left, at = world.execution, world.left, _now(world.execution)
        if left.cancels and execution.status not in TERMINAL:
            spent = world._replace(left=left.less(cancels=1))
            yield "cancel", self._event(spent, ev.CancelRequested(at)), False
        if execution.status is SagaStatus.PAUSED:
            yield "resume", self._event(world, ev.ResumeRequested(at)), True
        elif left.pauses and not execution.settled:
            spent = world._replace(left=left.less(pauses=1))
            yield "pause", self._event(spent, ev.PauseRequested(at)), False
        if left.verbs and execution.status is SagaStatus.STUCK:
            spent = world._replace(left=left.less(verbs=1))
            yield "retry", self._event(spent, ev.RetryRequested(at)), False
            yield "skip", self._event(_forgiven(spent), ev.SkipRequested(at)), False
            for status in TERMINAL:
                said = _forgiven(spent, status)
                event = ev.ResolveRequested(at, status)
                yield f"resolve {status}", self._event(said, event), False

    # What follows, and whether it may.

    def _event(self, world: World, event: ev.Event, body: Body | None = None) -> World:
        """The world after the state machine has been told of ``event``, checked."""
        before = world.execution
        try:
            decision = decide(before, event)
        except Exception as error:
            self._complaints.append(f"decide raised {error!r}")
            return world
        if body is not None:
            self._same(decision.execution, event, "a second copy of a report did something")
        then = world._replace(execution=decision.execution)
        self._check_answer(before, event, decision)
        then = self._in_debt(world, then, event, body)
        for command in decision.commands:
            if isinstance(command, ev.Dispatch):
                then = self._sent(before, then, command.slot)
        self._check(world, then, event)
        return then

    def _check_answer(self, before: SagaExecution, event: ev.Event, decision: ev.Decision) -> None:
        """What single events have to lead to, whatever else happens."""
        after, pivot = decision.execution, self.plan.pivot
        if isinstance(event, ev.CancelRequested) and after is not before:
            early = pivot is None or before.steps[pivot].epoch == 0
            self._require(early, "a saga was cancelled after its pivot was sent")
        elif isinstance(event, ev.StepFailed) and event.final and after is not before:
            over = after.settled or after.direction is BACKWARD
            self._require(over, "a final failure was not final")
        elif isinstance(event, ev.Looked) and event.message is ev.MessageState.GONE:
            slot, step = before.slot(before.position), before.steps[before.position]
            waits = slot is not None and step.claim is None and after.slot(slot.step) == slot
            if slot and waits and after.deadline == before.deadline and event.at > LONG:
                again = ev.Dispatch(slot, step.retries)
                self._require(again in decision.commands, "a message that is gone stays so")

    def _in_debt(self, world: World, then: World, event: ev.Event, body: Body | None) -> World:
        """What the state machine has to know now: an effect, reported or unknown, or an undo."""
        if body is None:
            return then
        index, truth = body.slot.step, then.truth[body.slot.step]
        if body.slot.direction is BACKWARD:
            done = isinstance(event, ev.StepSucceeded) and truth.debt is not None
            if done and then.execution is not world.execution and body.undo_round >= truth.debt:
                return _told(then, index, truth._replace(debt=None, late=False))
            return then
        report = isinstance(event, ev.StepSucceeded) or getattr(event, "effect", False)
        if report:
            failed = isinstance(event, ev.StepFailed)
            then = then._replace(heard=then.heard | {(body.slot, body.retries, failed)})
        if report or isinstance(event, ev.ClaimVoided):
            late = world.execution.direction is BACKWARD
            then = _told(then, index, truth._replace(debt=truth.sent + 1, late=late))
        return then

    def _sent(self, before: SagaExecution, then: World, slot: Slot) -> World:
        old, step = before.steps[slot.step], then.execution.steps[slot.step]
        self._require(then.execution.slot(slot.step) == slot, "what was sent is not outstanding")
        again = before.slot(slot.step) == slot
        self._require(again or slot.epoch == old.epoch + 1, "a dispatch without a new epoch")
        paused = then.execution.status is SagaStatus.PAUSED
        self._require(again or not paused, "a paused saga sent a step")
        if slot.direction is FORWARD:
            self._require(again or before.unwind is None, "a step was sent after the cancel")
            return then
        running = [body.token for body in then.bodies if body.state == "running"]
        running = [token for token in running if token.startswith("f")]
        self._require(not running, f"an undo was sent while {running} had the claim")
        if not again:
            self._check_order(then, slot.step)
        truth = then.truth[slot.step]
        return _told(then, slot.step, truth._replace(sent=max(truth.sent, step.undo_round)))

    def _check_order(self, world: World, index: int) -> None:
        for above in range(index + 1, len(self.plan.steps)):
            truth, step = world.truth[above], world.execution.steps[above]
            left_out = truth.late or step.status is StepStatus.COMPENSATION_FAILED
            owed = self.undoable[above] and truth.debt is not None and not left_out
            self._require(not owed, f"step {index} was undone before step {above}")

    def _check(self, world: World, then: World, event: ev.Event | None) -> None:
        before, after = world.execution, then.execution
        self.found.checks += 1
        outstanding = [i for i, step in enumerate(after.steps) if step.outstanding is not None]
        self._require(len(outstanding) <= 1, "two steps are outstanding")
        if outstanding:
            here = outstanding == [after.position]
            self._require(here, "the outstanding step is not the position")
            self._require(not after.settled, "a settled saga has an outstanding step")
        for old, new in zip(before.steps, after.steps, strict=True):
            self._require(new.epoch >= old.epoch, "an epoch went down")
            if new.epoch == old.epoch and new.outstanding is not None:
                self._require(new.outstanding is old.outstanding, "two dispatches under one epoch")
        if before.direction is FORWARD and after.direction is BACKWARD:
            self._check_turn(then)
        elif after.direction is FORWARD and after.unwind is not None:
            awaited = outstanding and after.steps[after.position].claim is not None
            self._require(awaited, "nobody has the claim, and the saga does not go back")
        if after.status not in SETTLED:
            self._require(after.due_at is not None, "nobody will look at it again")
        else:
            self._require(after.due_at is None, "a settled saga is looked at")
        if before.status is not after.status:
            self._check_status(then, before.status, event)

    def _check_turn(self, world: World) -> None:
        """No way back from a pivot that has taken effect, or may have."""
        pivot = self.plan.pivot
        if pivot is not None and not world.by_hand:
            owed = [truth.debt is not None for truth in world.truth[pivot:]]
            self._require(not any(owed), "the saga went back after its pivot")

    def _check_status(self, world: World, was: SagaStatus, event: ev.Event | None) -> None:
        execution = world.execution
        if was in TERMINAL:
            reported = isinstance(event, (ev.StepSucceeded, ev.StepFailed))
            back = was is SagaStatus.COMPENSATED and reported
            self._require(back, f"{was} became {execution.status}")
        if was is SagaStatus.STUCK:
            verbs = (ev.RetryRequested, ev.SkipRequested, ev.ResolveRequested, ev.CancelRequested)
            self._require(isinstance(event, verbs), f"STUCK became {execution.status} by itself")
        if execution.status is SagaStatus.COMPLETED and not world.by_hand:
            for step, truth in zip(execution.steps, world.truth, strict=True):
                done = step.status is StepStatus.SUCCEEDED and truth.standing
                skipped = step.status is StepStatus.SKIPPED
                self._require(done or skipped, "COMPLETED, but not all of it")
        elif execution.status is SagaStatus.COMPENSATED:
            self._check_compensated(world)
        elif execution.status is SagaStatus.STUCK and execution.direction is BACKWARD:
            self._check_stuck(world)

    def _check_compensated(self, world: World) -> None:
        loose = {body.slot.step for body in world.bodies if body.state == "loose"}
        for index, truth in enumerate(world.truth):
            if self.undoable[index]:
                self._require(truth.debt is None, f"COMPENSATED, but step {index} was not undone")
                hidden = index in loose
                self._require(not truth.standing or hidden, f"COMPENSATED, but step {index} stands")

    def _check_stuck(self, world: World) -> None:
        """Only undos that failed are left out."""
        for index, step in enumerate(world.execution.steps):
            owed = self.undoable[index] and world.truth[index].debt is not None
            failed = step.status is StepStatus.COMPENSATION_FAILED
            self._require(failed or not owed, f"STUCK, but the undo of step {index} was not tried")

    def _probe(self, world: World) -> None:
        """Reports that are stale or were counted before change nothing, whenever they come."""
        execution, at = world.execution, _now(world.execution)
        for slot, retries, failed in world.heard:
            token = f"{slot}/{retries}"
            if failed:
                event: ev.Event = ev.StepFailed(at, slot, BOOM, token, effect=True)
            else:
                event = ev.StepSucceeded(at, slot, token)
            self._same(execution, event, f"a report of {token} that was counted did something")
        head = _key_of_record(execution)
        for index, step in enumerate(execution.steps):
            key = (head, index == execution.position, index, step.epoch, _key_of_record(step))
            if key not in self._probed:
                self._probed.add(key)
                for epoch in range(1, step.epoch + 1):
                    self._probe_slot(execution, Slot(index, FORWARD, epoch), at)
                    self._probe_slot(execution, Slot(index, BACKWARD, epoch), at)

    def _probe_slot(self, execution: SagaExecution, slot: Slot, at: float) -> None:
        newest = execution.slot(slot.step) == slot
        events: list[ev.Event] = [
            ev.StepFailed(at, slot, BOOM, "stranger"),
            ev.StepReleased(at, slot, "stranger", 0, at),
            ev.ClaimVoided(at, slot, "stranger"),
            ev.ClaimVoided(at, slot, instance="elsewhere"),
            ev.StepRevoked(at, slot, BOOM, "elsewhere"),
            ev.TaskUnknown(at, slot),
        ]
        if slot.direction is BACKWARD:
            events.append(ev.StepSucceeded(at, slot, "stranger"))
        if newest and execution.steps[slot.step].claim is None:
            events = [event for event in events if isinstance(event, ev.ClaimVoided)]
        for event in events:
            self._same(execution, event, f"a stale {type(event).__name__} did something")
        step = execution.steps[slot.step]
        if not newest or step.claim is not None:
            retries = step.retries if newest else 9
            taken = claimed(execution, slot, Claim("stranger", "w", retries, at))
            self._require(taken is None, "a stale or second message got the claim")

    def _require(self, condition: object, text: str) -> None:
        if not condition:
            self._complaints.append(text)

    def _same(self, execution: SagaExecution, event: ev.Event, text: str) -> None:
        self.found.checks += 1
        decision = decide(execution, event)
        self._require(decision.execution is execution and not decision.commands, text)


def _now(execution: SagaExecution, later: float = 1.0) -> float:
    """A time after all that is in the execution; ``later`` in seconds."""
    step = execution.steps[execution.position]
    return later + max(execution.updated_at, step.not_before or 0.0 if later > 1 else 0.0)


def _fair(world: World) -> bool:
    return world.execution.status is not SagaStatus.PAUSED


def _without(world: World, body: Body) -> World:
    return world._replace(bodies=tuple(each for each in world.bodies if each is not body))


def _told(world: World, index: int, truth: Truth) -> World:
    return world._replace(truth=(*world.truth[:index], truth, *world.truth[index + 1 :]))


def _effect(world: World, body: Body) -> World:
    """The body does what it is for; an undo whose round was carried out before does nothing."""
    truth = world.truth[body.slot.step]
    if body.slot.direction is FORWARD:
        return _told(world, body.slot.step, truth._replace(standing=True))
    if body.undo_round <= truth.undone:
        return world
    return _told(world, body.slot.step, truth._replace(standing=False, undone=body.undo_round))


def _forgiven(world: World, status: SagaStatus | None = None) -> World:
    """An operator answers for what holds the saga up, or for all of it."""
    resolved = status is not None
    truth = tuple(
        each._replace(debt=None, standing=False)
        if resolved or step.status is StepStatus.COMPENSATION_FAILED
        else each
        for step, each in zip(world.execution.steps, world.truth, strict=True)
    )
    return world._replace(truth=truth, by_hand=resolved)


#: Fields of which only the presence matters, and fields that do not matter.
_PRESENCE = frozenset(
    {"error", "undo_error", "not_before", "unknown_since", "unwind", "deadline", "due_at"}
)
_IGNORED = frozenset(
    {"expected_at", "republished", "started_at", "ended_at", "claim", "name", "epoch", "reported"}
    | {"saga_id", "plan", "values", "revision", "history", "created_at", "updated_at", "steps"}
)

_GETTERS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def key_of(world: World) -> object:
    """What makes a world differ from others.

    Epochs are only ever compared, so they are numbered anew: worlds in which a step was sent more
    often differ no further. What cannot be used any more is no longer left.
    """
    execution, left = world.execution, world.left
    if execution.direction is BACKWARD:
        left = left._replace(cancels=0, zombies=0)
    if execution.status in TERMINAL and not world.bodies:
        left = Bounds(*[0] * len(left))
    epochs = _renumbered(world)
    return (
        _key_of_execution(execution, epochs),
        world.truth,
        left,
        tuple((*_slot_key(body.slot, epochs), *body[1:]) for body in world.bodies),
        frozenset((*_slot_key(slot, epochs), *rest) for slot, *rest in world.heard),
        world.retried is not None and world.retried == execution.slot(execution.position),
        world.by_hand,
    )


def _renumbered(world: World) -> list[dict[int, int]]:
    """For each step, the epochs that are in use, to their ranks."""
    epochs = [{0, step.epoch} for step in world.execution.steps]
    for slot, *_ in (*world.bodies, *world.heard):
        epochs[slot.step].add(slot.epoch)
    return [{epoch: rank for rank, epoch in enumerate(sorted(used))} for used in epochs]


def _slot_key(slot: Slot, epochs: list[dict[int, int]]) -> tuple[int, str, int]:
    return slot.step, slot.direction.value, epochs[slot.step][slot.epoch]


def _key_of_execution(execution: SagaExecution, epochs: list[dict[int, int]]) -> object:
    """The execution without its times and texts."""
    return (
        _key_of_record(execution),
        tuple(
            (
                _key_of_record(step),
                epochs[index][step.epoch],
                step.claim is not None,
                frozenset(_token_key(token, epochs[index]) for token in step.reported),
            )
            for index, step in enumerate(execution.steps)
        ),
    )


def _token_key(token: str, epochs: dict[int, int]) -> tuple[int, str]:
    epoch, retries = token.partition("~")[2].split("/")
    return epochs[int(epoch)], retries


def _key_of_record(record: Any) -> tuple[Any, ...]:
    """All fields of a record except those named above, whatever fields it has."""
    kind = type(record)
    if kind not in _GETTERS:
        names = [spec.name for spec in fields(kind) if spec.name not in _IGNORED | _PRESENCE]
        present = [spec.name for spec in fields(kind) if spec.name in _PRESENCE]
        _GETTERS[kind] = attrgetter(*names), attrgetter(*present)
    exact, presence = _GETTERS[kind]
    return exact(record), tuple([value is None for value in presence(record)])
