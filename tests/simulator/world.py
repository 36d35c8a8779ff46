"""The simulated world: workers, their bodies, clients, operators and a clock."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from celery_saga.core import events as ev
from celery_saga.core.decide.operators import awaited
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, SagaStatus, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Choice, Plan, Wait
from celery_saga.core.ports import HeartbeatReply, Refused, Reserved
from celery_saga.core.recovery.failure_detector import OwnClaims, Steadiness
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.core.recovery.sweep import Sweeper
from celery_saga.errors import SagaError, StoreUnavailable
from tests.core.scenario import plan_of
from tests.core.tree_promises import may_be_together
from tests.core.walk_trees import Tree
from tests.invariants import Invariant
from tests.simulator.ledger import Body, Broken, Ledger
from tests.simulator.network import Broker, Died, FaultPlan, FaultyStore, Message, Results
from tests.simulator.schedule import Event, Fault, Schedule

#: Seconds for which a worker is alive after a heartbeat, and most workers at a time.
TTL, MOST_WORKERS = 6.0, 4
#: Rounds of two seconds in which all sagas have to settle once nothing bad happens any more.
ROUNDS_TO_SETTLE = 400
#: Seconds after which a saga has to move that waits for nothing but recovery, in a world that is
#: checked every two seconds.
STILL, LOOKS = 10.0, 2.0

#: A message is missing at the first check, and no sweep is cut short by the clock of this machine.
AT_ONCE = RecoveryPolicy(heartbeat_interval=60.0, heartbeats_until_known=0.0)
#: A worker checks its own claims at each heartbeat, however soon that comes.
AT_EACH_HEARTBEAT = RecoveryPolicy(heartbeat_interval=0.0)
#: The default, for workers that are alive before and after a standstill.
BY_DEFAULT = RecoveryPolicy()
#: Seconds of a standstill; it comes before this event, when most sagas are on their way.
STANDSTILL, STANDSTILL_AT = 60.0, 25

BOOM = Failure("Boom", "it broke")

_Report = ev.StepSucceeded | ev.StepFailed | ev.StepReleased


@dataclass(eq=False)
class Worker:
    """A worker with a main process, and children that run bodies.

    Args:
        silent: whether it sends no heartbeats; its children continue.
        suspected: whether its liveness ran out at some time, so that others may reclaim its claims.
    """

    instance: str
    waiting: list[Message] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    silent: bool = False
    suspected: bool = False
    sweeper: Sweeper | None = None
    own_claims: OwnClaims = field(default_factory=OwnClaims)
    steadiness: Steadiness = field(default_factory=Steadiness)


class World:
    """Runs one schedule.

    Args:
        schedule: what happens.
        trace: whether to keep a history of it.
    """

    def __init__(self, schedule: Schedule, trace: bool = False) -> None:
        self.schedule = schedule
        self.history: list[str] = []
        self.counts: Counter[str] = Counter()
        self.clock = 1_000.0
        self._trace = trace
        self._faults = FaultPlan(self)
        self.store = FaultyStore(lambda: self.clock, self._faults, self)
        self.broker = self.store.broker = Broker(self._faults, self, schedule.outbox)
        self.orchestrator = Orchestrator(
            self.store,
            self.broker,
            Results(self.broker),
            store_timeout=0.0,
            observer=self.broker,
            pause=lambda seconds: None,
        )
        self.workers: list[Worker] = []
        self.ledgers = {f"s{i}": Ledger(_plan_of(shape)) for i, shape in enumerate(schedule.shapes)}
        self._shapes = dict(zip(self.ledgers, schedule.shapes, strict=True))
        self._moved: dict[str, tuple[object, float]] = {}
        #: Seconds for which a saga waited for recovery at most, once nothing bad happened.
        self.longest = 0.0
        self._set_back = 0
        self._leapt = 0.0
        self._described: dict[str, str] = {}
        self._checks: Counter[Invariant] = Counter()
        self._started = self._claims = self._starts = 0
        self._actor: Worker | None = None
        self._by_hand = False
        self._reporting: tuple[Body, bool] | None = None
        self._reports: list[tuple[Body, _Report]] = []
        self._retried: list[tuple[Worker, Message]] = []
        for _ in range(2):
            self._start_worker()

    def run(self) -> None:
        """Let all events happen, then nothing bad any more, until all sagas are settled.

        Raises:
            Broken: an invariant was.
        """
        for number, event in enumerate(self.schedule.events):
            if number == STANDSTILL_AT and self.schedule.standstill:
                self._stand_still()
            self._happen(event)
        self._settle()
        for saga_id, ledger in self.ledgers.items():
            execution = self.store.load(saga_id)
            if execution is not None:
                if execution.status is not SagaStatus.STUCK:
                    # A stuck saga stays so when a zombie reports an effect: its operator's retry
                    # compensates that as well.
                    ledger.check_status(execution)
                self._check_result(execution)
                self.counts[f"ended {execution.status}"] += 1
                self.counts["met lost attempts"] += sum(step.lost for step in execution.steps)
                self.counts["met late effects"] += sum(
                    step.compensation_round for step in execution.steps
                )
        self._count_checks()

    def _count_checks(self) -> None:
        for checks in (self._checks, *(ledger.checks for ledger in self.ledgers.values())):
            self.counts.update({f"checked {each}": count for each, count in checks.items()})

    def _require(self, invariant: Invariant, condition: object, text: str) -> None:
        self._checks[invariant] += 1
        if not condition:
            raise Broken(invariant, text)

    def _check_result(self, execution: SagaExecution) -> None:
        """The result is that of the end; callers are notified of it, of one end and mostly once."""
        result = self.broker.results.get(execution.saga_id)
        notified = self.broker.notified.get(execution.saga_id, 0)
        if not self.schedule.result:
            self._require(Invariant.RESULT, not result and not notified, "an unwanted result")
            return
        last = result is execution.status
        self._require(Invariant.RESULT, last, "the result is not that of the end")
        quiet = all(event.fault is None for event in self.schedule.events)
        once = notified == 1 or (notified > 1 and not quiet)
        self._require(Invariant.CALLERS, once, "callers were not notified once")
        self.counts["met callers notified again"] += notified - 1

    def say(self, text: str) -> None:
        """Add a line to the history."""
        if self._trace:
            self.history.append(f"{self.clock - 1_000:7.1f} s  {text}")

    # Events, and what strikes in the midst of them.

    def _happen(self, event: Event) -> None:
        before = self._actor, self._by_hand, self._reporting
        self._actor, self._by_hand, self._reporting = None, False, None
        fault = self._faults.set(event.fault)
        try:
            if _EVENTS[event.kind](self, event.pick) is not False:
                self.counts[f"event {event.kind}"] += 1
        except Died:
            self.say("  ... and dies")
            if self._actor is not None and self._actor in self.workers:
                self._kill(self._actor, event.pick % 2 == 0)
        except StoreUnavailable as error:
            self.say(f"  ... {error}")
        finally:
            self._actor, self._by_hand, self._reporting = before
            self._faults.set(fault)
        self._look()

    def meanwhile(self, others: Sequence[Event]) -> None:
        """Others act in the midst of an event."""
        self.say("  ... meanwhile")
        for other in others:
            self._happen(other)
        self.say("  ... and back")

    def struck(self, fault: Fault) -> None:
        """A fault came to pass."""
        self.counts[f"fault {fault.kind}"] += 1
        self.say(f"  ... {fault.kind}")

    def created(
        self, before: SagaExecution | None, answer: tuple[SagaExecution, bool], same: bool
    ) -> None:
        """The store has answered to a start."""
        self.ledgers[answer[0].saga_id].created(before, answer, same)

    def claimed(self, saga_id: str, ref: StepRef, token: str) -> None:
        """The store has given a claim."""
        self.ledgers[saga_id].claimed(ref, token)

    def replaced(self, old: SagaExecution, before: SagaExecution) -> None:
        """A checkpoint takes the place of another."""
        same, text = old.revision == before.revision, "a checkpoint replaced one unseen"
        self._require(Invariant.REVISION, same, text)

    def saved(self, before: SagaExecution, after: SagaExecution) -> None:
        """An event has changed a saga."""
        if self._reporting is not None:
            body, effect = self._reporting
            self.ledgers[before.saga_id].reported(body, before, after, effect)
        self._see(after)
        self._check_compensation(before, after)

    def _check_compensation(self, before: SagaExecution, after: SagaExecution) -> None:
        """None is sent while a step runs on a worker that is alive."""
        for path, new in after.steps.items():
            old, ref = before.steps[path], after.ref(path)
            sent = ref is not None and ref.direction is Direction.COMPENSATION
            if sent and new.epoch > old.epoch:
                runs = self._runs(after.saga_id, Direction.FORWARD)
                text = "a compensation was sent while a step runs"
                self._require(Invariant.NO_COMPENSATION_UNDER_CLAIM, not runs, text)

    def _runs(self, saga_id: str, direction: Direction | None = None) -> bool:
        """Whether a body of the saga runs on a worker that does not count as dead."""
        alive = self.store.alive()  # time may have passed since the last look
        return any(
            body.message.saga_id == saga_id and direction in (None, body.ref.direction)
            for worker, body in self._bodies()
            if not worker.suspected and worker.instance in alive
        )

    def sends(self, message: Message) -> None:
        """A message goes out."""
        self.ledgers[message.saga_id].sends(message, self.store.load(message.saga_id))

    def publishes(self, execution: SagaExecution) -> None:
        """A result is stored, and callers are notified."""
        self.ledgers[execution.saga_id].publishes(execution.status)

    def _see(self, execution: SagaExecution) -> None:
        if self._trace:
            self._describe(execution)
        self.ledgers[execution.saga_id].see(execution, self._by_hand)

    def _look(self) -> None:
        for saga_id in self.ledgers:
            execution = self.store.load(saga_id)
            if execution is not None:
                self._see(execution)
        alive = self.store.alive()
        for worker in self.workers:
            worker.suspected = worker.suspected or worker.instance not in alive
            if not worker.suspected:
                for body in worker.bodies:
                    self._check_claim(body)

    def _describe(self, execution: SagaExecution) -> None:
        steps = " ".join(step.status.value for step in execution.steps)
        text = f"{execution.saga_id} is {execution.status}: {steps}"
        if self._described.get(execution.saga_id) != text:
            self._described[execution.saga_id] = text
            self.say(f"  {text}")

    def _check_claim(self, body: Body) -> None:
        """A step on a live worker is never rerun, however long it runs."""
        if not body.ending:
            kept, text = self._has_claim(body), "a body on a live worker lost its claim"
            self._require(Invariant.CLAIM_KEPT, kept, text)

    def _has_claim(self, body: Body) -> bool:
        claim = self._now(body.message.saga_id).steps[body.ref.path].claim
        return claim is not None and claim.token == body.claim.token

    def _now(self, saga_id: str) -> SagaExecution:
        found = self.store.load(saga_id)
        assert found is not None
        return found

    # Clients and operators.

    def _start(self, pick: int) -> None:
        saga_id = list(self.ledgers)[pick % len(self.ledgers)]
        self._starts += 1
        self.say(f"a client starts {saga_id}: {self._shapes[saga_id]!r}")
        self.orchestrator.start(
            _plan_of(self._shapes[saga_id]),
            saga_id,
            _values_of(self._shapes[saga_id]),
            token=f"client-{self._starts}",
            countdown=self.schedule.countdown,
            deadline=self.schedule.deadline,
            wants_result=self.schedule.result,
            callbacks={"callbacks": []} if self.schedule.result else None,
        )

    def _ask(self, make: Callable[[float], ev.Event], pick: int, by_hand: bool = True) -> None:
        event = make(self.clock)
        saga_id = self._asked_for(pick, type(event))
        if self.store.load(saga_id) is not None:
            self.say(f"an operator: {type(event).__name__} {saga_id}")
            self._by_hand = by_hand
            try:
                self.orchestrator.apply(saga_id, event)
            except StoreUnavailable:
                raise
            except SagaError as refusal:
                self.say(f"  refused: {refusal}")

    def _signal(self, pick: int) -> bool | None:
        """A signal for one of the waits of a saga, begun or not."""
        saga_id = list(self.ledgers)[pick % len(self.ledgers)]
        execution = self.store.load(saga_id)
        plan = _plan_of(self._shapes[saga_id])
        waits = [path for path in plan.leaves if isinstance(plan.at(path), Wait)]
        if execution is None or not waits:
            return False
        name = plan.signal_of(waits[pick // 4 % len(waits)])
        self._send_signal(saga_id, name, str(pick))
        return None

    def _send_signal(self, saga_id: str, name: str, token: str) -> None:
        self.say(f"signal {name} for {saga_id}")
        try:
            self.orchestrator.apply(
                saga_id, ev.SignalReceived(self.clock, name, "true", token, "ann")
            )
        except StoreUnavailable:
            raise
        except SagaError as refusal:
            self.say(f"  refused: {refusal}")

    def _asked_for(self, pick: int, verb: type) -> str:
        """A saga for which that makes sense, if there is one; now and then any."""
        of_stuck = verb in (ev.RetryRequested, ev.SkipRequested)
        fit = [
            saga_id
            for saga_id in self.ledgers
            if (found := self.store.load(saga_id)) is not None
            and (found.status is SagaStatus.STUCK if of_stuck else not found.settled)
        ]
        asked = fit if fit and pick % 4 else list(self.ledgers)
        return asked[pick % len(asked)]

    # The broker's ways.

    def _from_queue(self, pick: int) -> Message | None:
        queue = self.broker.queue
        return queue.pop(pick % len(queue)) if queue else None

    def _deliver(self, pick: int) -> bool | None:
        message = self._from_queue(pick) if self.workers else None
        if message is None:
            return False
        worker = self.workers[pick // 4 % len(self.workers)]
        worker.waiting.append(message)
        self.say(f"{worker.instance} receives {message}")
        return None

    def _lose_message(self, pick: int) -> bool | None:
        message = self._from_queue(pick)
        self.say(f"message {message} is lost")
        return None if message else False

    def _copy_message(self, pick: int) -> bool | None:
        if not self.broker.queue:
            return False
        self.broker.queue.append(self.broker.queue[pick % len(self.broker.queue)])
        self.say(f"message {self.broker.queue[-1]} is doubled")
        return None

    def _replay_message(self, pick: int) -> bool | None:
        if not self.broker.sent:
            return False
        self.broker.queue.append(self.broker.sent[pick % len(self.broker.sent)])
        self.say(f"message {self.broker.queue[-1]} comes again")
        return None

    # Workers.

    def _start_worker(self, pick: int = 0) -> bool | None:
        if len(self.workers) >= MOST_WORKERS:
            return False
        self._started += 1
        sweeper = Sweeper(self.orchestrator, self.broker, AT_ONCE)
        worker = Worker(f"w{self._started}", sweeper=sweeper)
        self.say(f"{worker.instance} starts")
        self.store.heartbeat(worker.instance, TTL, ())
        self.workers.append(worker)
        return None

    def _kill(self, worker: Worker, redelivered: bool) -> None:
        self.say(f"{worker.instance} is killed, {'un' * redelivered}acknowledged its messages")
        self.workers.remove(worker)
        if redelivered:
            self.broker.queue += worker.waiting
            self.broker.queue += [body.message for body in worker.bodies]

    def _kill_worker(self, pick: int) -> bool | None:
        if not self.workers:
            return False
        self._kill(self.workers[pick % len(self.workers)], pick // 4 % 2 == 0)
        return None

    def _silence(self, pick: int, silent: bool = True) -> bool | None:
        found = [worker for worker in self.workers if worker.silent is not silent]
        if not found:
            return False
        worker = found[pick % len(found)]
        worker.silent = silent
        self.say(f"the heartbeat of {worker.instance} {'stops' if silent else 'continues'}")
        return None

    def _beat(self, pick: int) -> bool | None:
        found = [worker for worker in self.workers if not worker.silent]
        if not found:
            return False
        self._beat_of(found[pick % len(found)])
        return None

    def _beat_of(self, worker: Worker, when_steady: bool = False) -> None:
        """A heartbeat; others are reclaimed at each, or only by a worker that is steady."""
        self._actor = worker
        self.say(f"{worker.instance} beats")
        reserved = [Reserved(message.ref.task_id(message.saga_id)) for message in worker.waiting]
        reply = self.store.heartbeat(worker.instance, TTL, reserved)
        sweeper = worker.sweeper
        assert sweeper is not None
        self._reclaim_own(worker, sweeper, reply)
        now = self.clock - self._leapt
        worker.steadiness = worker.steadiness.after(now, reply.at, BY_DEFAULT)
        steady = not when_steady or worker.steadiness.is_steady(BY_DEFAULT)
        sweeper.act_upon(reply, steady)

    def _reclaim_own(self, worker: Worker, sweeper: Sweeper, reply: HeartbeatReply) -> None:
        """Void the worker's claims that the engine's own failure detector finds lost."""
        tasks = {body.ref.task_id(body.message.saga_id) for body in worker.bodies}
        checked = worker.own_claims.check(self.clock, reply.claims, tasks, AT_EACH_HEARTBEAT)
        worker.own_claims, lost = checked
        for saga_id, ref in sorted(lost, key=str):
            self.say(f"{worker.instance} has lost {saga_id} {ref}")
            sweeper.void(saga_id, ref, worker.instance)

    def _waiting(self, pick: int) -> tuple[Worker, Message] | None:
        found = [(worker, message) for worker in self.workers for message in worker.waiting]
        if not found:
            return None
        worker, message = found[pick % len(found)]
        worker.waiting.remove(message)
        self._actor = worker
        return worker, message

    def _begin(self, pick: int) -> bool | None:
        found = self._waiting(pick)
        if found is None:
            return False
        worker, message = found
        self._claims += 1
        claim = Claim(f"{worker.instance}-{self._claims}", worker.instance, message.retries)
        try:
            taken = self.orchestrator.claim(message.saga_id, message.ref, claim)
        except StoreUnavailable:
            self.broker.queue.append(message)
            raise
        if isinstance(taken, Refused):
            self.say(f"{worker.instance} drops {message}: {taken.reason}")
            return None
        self.say(f"{worker.instance} begins {message}")
        key = taken.idempotency_key(message.ref.path, message.ref.direction)
        body = Body(message, claim, taken, key)
        alone = self._is_alone(taken, message.ref)
        self._require(Invariant.CLAIM_BEFORE_BODY, alone, "two bodies of a saga run at once")
        self.ledgers[message.saga_id].begins(body, self._now(message.saga_id))
        worker.bodies.append(body)
        return None

    def _is_alone(self, execution: SagaExecution, ref: StepRef) -> bool:
        """Whether no other body of the saga runs on a live worker, but in other branches."""
        alive = self.store.alive()
        others = [
            body.ref
            for worker, body in self._bodies()
            if body.message.saga_id == execution.saga_id
            and not worker.suspected
            and worker.instance in alive
        ]
        return all(may_be_together(execution.plan, ref, other) for other in others)

    def _forget_task(self, pick: int) -> bool | None:
        found = self._waiting(pick)
        if found is None:
            return False
        worker, message = found
        self.say(f"{worker.instance} does not know the task of {message}")
        self.orchestrator.apply(message.saga_id, ev.TaskUnknown(self.clock, message.ref))
        return None

    def _revoke(self, pick: int) -> bool | None:
        found = self._waiting(pick)
        if found is None:
            return False
        worker, message = found
        self.say(f"{worker.instance} drops {message}: revoked")
        event = ev.StepRevoked(self.clock, message.ref, BOOM, worker.instance)
        self.orchestrator.apply(message.saga_id, event)
        return None

    # Bodies.

    def _bodies(self) -> Iterator[tuple[Worker, Body]]:
        for worker in self.workers:
            for body in worker.bodies:
                if not body.ending:
                    yield worker, body

    def _body(self, pick: int) -> tuple[Worker, Body] | None:
        found = list(self._bodies())
        if not found:
            return None
        self._actor, body = found[pick % len(found)]
        return self._actor, body

    def _take_effect(self, body: Body) -> None:
        if not body.happened:
            now = self._now(body.message.saga_id)
            self.ledgers[body.message.saga_id].happens(body, now)

    def _happen_early(self, pick: int) -> bool | None:
        found = self._body(pick)
        if found is None:
            return False
        self._take_effect(found[1])
        self.say(f"{found[0].instance}: {found[1].message} takes effect")
        return None

    def _end(self, pick: int, how: str) -> bool | None:
        found = self._body(pick)
        if found is None:
            return False
        worker, body = found
        if how in ("ok", "effect") or (how == "maybe" and pick % 2):
            self._take_effect(body)
        elif body.happened and how in ("fail", "final", "retry", "requeue"):
            return False  # that would be a task which reports a wrong outcome
        body.ending, body.retried = True, how == "retry"
        self.say(f"{worker.instance}: {body.message} ends: {how}")
        retries = body.message.retries + (how == "retry")
        if how in ("retry", "requeue"):
            self._retried.append((worker, body.message))
            self.broker.send(Message(body.message.saga_id, body.ref, retries))
        self._report(worker, body, self._outcome(body, how, retries))
        return None

    def _outcome(self, body: Body, how: str, retries: int) -> _Report:
        at, ref, token = self.clock, body.ref, body.claim.token
        if how in ("retry", "requeue"):
            return ev.StepReleased(at, ref, token, retries, at + 1)
        if how == "ok" and isinstance(body.execution.plan.at(ref.path), Choice):
            return ev.StepSucceeded(at, ref, token, answer=len(body.claim.token) % 2 == 0)
        if how == "ok":
            return ev.StepSucceeded(at, ref, token, {f"{ref}": at})
        failed = partial(ev.StepFailed, at, ref, BOOM, token)
        return failed(effect=how in ("maybe", "effect"), final=how == "final")

    def _report(self, worker: Worker, body: Body, event: _Report) -> None:
        self._reports.append((body, event))
        self._reporting = body, _reports_effect(event)
        try:
            self.orchestrator.apply(body.message.saga_id, event, body.execution)
            body.heard = True
        except StoreUnavailable:
            # The delivery returns to the broker.
            self.broker.queue.append(body.message)
            raise
        finally:
            self._reporting = None
            if body in worker.bodies:
                worker.bodies.remove(body)

    def _report_again(self, pick: int) -> bool | None:
        """A worker did not get the answer to a report, and repeats it; or a report comes late."""
        if pick % 2 and self._retried:
            return self._void_retried(pick)
        if not self._reports:
            return False
        body, event = self._reports[pick % len(self._reports)]
        self.say(f"the report on {body.message} comes again: {type(event).__name__}")
        self._reporting = body, _reports_effect(event)
        self.orchestrator.apply(body.message.saga_id, event)
        return None

    def _kill_child(self, pick: int) -> bool | None:
        """The main process may notice it at once, as a lost child or as a hard time limit."""
        found = self._body(pick)
        if found is None:
            return False
        worker, body = found
        if pick // 4 % 2:
            self._take_effect(body)
        body.ending = True
        worker.bodies.remove(body)
        self.say(f"{worker.instance}: the child that ran {body.message} is killed")
        if worker.silent or pick % 3 == 0:
            return None
        event: ev.Event = ev.ClaimVoided(self.clock, body.ref, instance=worker.instance)
        if pick % 3 == 1:
            event = ev.StepFailed(self.clock, body.ref, BOOM, instance=worker.instance, effect=True)
        self.orchestrator.apply(body.message.saga_id, event)
        return None

    def _void_retried(self, pick: int) -> bool | None:
        """A child has died that returned its task to Celery; another may run that by now."""
        worker, message = self._retried[-1 - pick // 2 % min(2, len(self._retried))]
        here = [body.message for body in worker.bodies]
        if worker not in self.workers or worker.silent or _same_ref(message, here):
            return False  # no heartbeat voids the claim while its worker runs the ref
        self._actor = worker
        self.say(f"{worker.instance}: the child that returned {message} is lost")
        event = ev.ClaimVoided(self.clock, message.ref, instance=worker.instance)
        self.orchestrator.apply(message.saga_id, event)
        return None

    # Time.

    def _wait(self, pick: int) -> None:
        self.clock += 0.5 + pick % 4

    def _jump(self, pick: int) -> None:
        self.clock += (5, 9, 40, 400)[pick % 4]
        self.say("the clock jumps")

    def _jump_back(self, pick: int) -> None:
        self.clock -= pick % 8
        self._set_back += pick % 8
        self.say("the clock jumps back")

    def _stand_still(self) -> None:
        """All stop for a minute, or the store's clock leaps by one: that voids no claim."""
        turns = itertools.count(step=4)
        while any(self._happened(kind, next(turns)) for kind in ("deliver", "begin")):
            pass
        awake = [worker for worker in self.workers if not worker.silent]
        self._beat_on(awake, seconds=10)
        held = [body for worker in awake for body in worker.bodies if self._has_claim(body)]
        leaps = self.schedule.seed % 8 == 1
        self.say("the store's clock leaps" if leaps else "all stop for a minute")
        self._leapt += STANDSTILL if leaps else 0.0
        self.clock += STANDSTILL
        self._beat_on(awake, seconds=24)
        for body in held:
            kept, text = self._has_claim(body), "a standstill made a claim void"
            self._require(Invariant.CLAIM_KEPT, kept, text)

    def _beat_on(self, awake: Sequence[Worker], seconds: int) -> None:
        for _ in range(seconds // 2):
            for worker in awake:
                self._beat_of(worker, when_steady=True)
            self._look()
            self.clock += 2
        self._actor = None

    # The end.

    def _settle(self) -> None:
        self.say("from here on nothing bad happens any more")
        for worker in [worker for worker in self.workers if worker.silent]:
            if self.schedule.silent_die:
                self._kill(worker, redelivered=False)
            worker.silent = False
        for _ in range(ROUNDS_TO_SETTLE):
            if self._is_over():
                return
            self._round()
        found = [self.store.load(saga_id) for saga_id in self.ledgers]
        pending = [each for each in found if each and each.settled and each.result_pending]
        self._require(Invariant.RESULT, not pending, "a result is never published")
        raise Broken(Invariant.SETTLES, "a saga never settles")

    def _is_over(self) -> bool:
        executions = [self.store.load(saga_id) for saga_id in self.ledgers]
        settled = all(
            each is None or (each.settled and not each.result_pending) for each in executions
        )
        return settled and not self.broker.queue and not any(self._bodies())

    def _round(self) -> None:
        self.clock += 2
        if not self.workers:
            self._start_worker()
        for worker in list(self.workers):
            self._actor = None
            self._beat_of(worker)
            self._look()
        while any(map(self._happened, ("deliver", "begin", "succeed"))):
            pass
        for saga_id in self.ledgers:
            execution = self.store.load(saga_id)
            if execution is not None and execution.status is SagaStatus.PAUSED:
                self.orchestrator.apply(saga_id, ev.ResumeRequested(self.clock))
                self._look()
            elif execution is not None and not execution.settled:
                for _, name in list(awaited(execution)):
                    self._send_signal(saga_id, name, "at the end")
                self._check_still(self._now(saga_id))

    def _check_still(self, execution: SagaExecution) -> None:
        """A saga that only recovery can move is moved soon."""
        state = [(s.status, s.epoch, s.claim, s.republished) for s in execution.steps]
        before, since = self._moved.get(execution.saga_id, (None, 0.0))
        if state != before:
            self._moved[execution.saga_id] = state, self.clock
            return
        paths = [] if execution.current is None else [execution.current]
        if not execution.plan.linear:
            paths = [path for path, _ in execution.steps.items()]
        steps = [execution.steps[path] for path in paths]
        for step in steps:
            since = max(since, step.not_before or 0.0, step.expected_at or 0.0)
        if execution.status is SagaStatus.CREATED:
            since = max(since, execution.due_at or 0.0)
        still = self.clock - since - self._set_back
        self.longest = max(self.longest, still)
        # A message that was missed again and again is sent more seldom, found at the next look.
        missed = max((step.unclaimed for step in steps), default=0)
        pause = min(60.0, 4.0 * 2.0 ** max(0, missed - 1))
        moves = still <= max(STILL, pause + LOOKS)
        self._require(Invariant.SENT_AGAIN, moves, "a saga does not move")

    def _happened(self, kind: str, pick: int = 0) -> bool:
        self._actor = None
        happened = _EVENTS[kind](self, pick) is not False
        self._look()
        return happened


def _plan_of(shape: str | Tree) -> Plan:
    if isinstance(shape, Tree):
        return shape.plan(max_redeliveries=2)
    return plan_of(shape, max_redeliveries=2)


def _values_of(shape: str | Tree) -> Mapping[str, object]:
    return shape.values if isinstance(shape, Tree) else {}


def _same_ref(message: Message, others: Sequence[Message]) -> bool:
    wanted = message.saga_id, message.ref
    return any((other.saga_id, other.ref) == wanted for other in others)


def _reports_effect(event: _Report) -> bool:
    effect = isinstance(event, ev.StepSucceeded) or getattr(event, "effect", False)
    return effect and event.ref.direction is Direction.FORWARD


def _operator(make: Callable[[float], ev.Event], by_hand: bool = True) -> Callable[..., None]:
    return lambda world, pick: world._ask(make, pick, by_hand)


_EVENTS: dict[str, Callable[[World, int], bool | None]] = {
    "start": World._start,
    "deliver": World._deliver,
    "begin": World._begin,
    "succeed": lambda world, pick: world._end(pick, "ok"),
    "beat": World._beat,
    "wait": World._wait,
    "happen": World._happen_early,
    "fail": lambda world, pick: world._end(pick, "fail"),
    "fail_with_effect": lambda world, pick: world._end(pick, "maybe"),
    "abort": lambda world, pick: world._end(pick, "final"),
    "retry": lambda world, pick: world._end(pick, "retry"),
    "requeue": lambda world, pick: world._end(pick, "requeue"),
    "report_again": World._report_again,
    "lose_message": World._lose_message,
    "copy_message": World._copy_message,
    "replay_message": World._replay_message,
    "kill_child": World._kill_child,
    "kill_worker": World._kill_worker,
    "start_worker": World._start_worker,
    "stop_heartbeat": World._silence,
    "resume_heartbeat": lambda world, pick: world._silence(pick, silent=False),
    "jump": World._jump,
    "signal": World._signal,
    "jump_back": World._jump_back,
    "forget_task": World._forget_task,
    "revoke": World._revoke,
    "cancel": _operator(lambda at: ev.CancelRequested(at, "ann")),
    "pause": _operator(lambda at: ev.PauseRequested(at, "ann"), by_hand=False),
    "resume": _operator(lambda at: ev.ResumeRequested(at, "ann"), by_hand=False),
    "operator_retry": _operator(lambda at: ev.RetryRequested(at, "ann")),
    "operator_skip": _operator(lambda at: ev.SkipRequested(at, "ann")),
}
