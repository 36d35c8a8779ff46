"""Short words for sagas and for what happens to them, so that a test can be a line of data.

A shape is a text such as ``"a b! c* d^"``: one word a step, its name and then flags.

=======  =======================================================================
``-``    has no compensation (so have all steps from the pivot on)
``*``    is the pivot
``!``    is not run again when its outcome is unknown
``?``    is read-only, and has no compensation
``%3``   is retried by the engine, three attempts in all
``^``    is retried by the engine without end
``<k``   needs the context key ``k``
``>k``   its compensation needs the context key ``k``
``&``    has a commit task
``+k``   has one that needs the context key ``k``
=======  =======================================================================

A script is a text such as ``"start, f0 ok, f1 claimed, cancel, f1 fails"``. A ref is written as
in message ids, ``f1`` forward, ``c1`` in the rollback (``f1.0`` in a tree), with the newest epoch
unless ``~2`` names one, and with the newest claim unless ``/1`` names that of Celery's first retry.
A report of the outstanding ref comes from its claim, so a script need not say
it; ``#`` behind the ref leaves that claim out. ``true`` and ``false`` are answers of conditions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from celery_saga.core import events as ev
from celery_saga.core.decide import decide
from celery_saga.core.decide.claims import claimed
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, SagaStatus, StepRef
from celery_saga.core.plan import Call, Input, Plan, PlanStep

START = 1_000.0

_STEP = re.compile(r"(?P<name>[a-z]+)(?P<flags>(?:[-*!?^&]|%\d+|[<>+][a-z]+)*)")
_FLAG = re.compile(r"[-*!?^&]|%\d+|[<>+][a-z]+")
_REF = re.compile(r"([fc])(\d+(?:\.\d+)*)(?:~(\d+))?(?:/(\d+))?(#?)")


def plan_of(shape: str, **limits: Any) -> Plan:
    """The plan that a shape describes; ``compensation_tries`` is for all compensations."""
    how = {key: limits.pop(key) for key in ("compensation_tries", "backoff") if key in limits}
    return Plan("shape", steps_of(shape, **how), **limits)


def steps_of(shape: str, compensation_tries: int = 2, backoff: float = 8.0) -> tuple[PlanStep, ...]:
    """The steps that a shape describes."""
    steps, past = [], False
    for word in shape.split():
        match = _STEP.fullmatch(word)
        assert match, f"{word!r} is not a step"
        flags = _FLAG.findall(match["flags"])
        past = past or "*" in flags
        tries = next((int(flag[1:]) for flag in flags if flag[0] == "%"), 1)
        action = Call(
            f"do.{match['name']}",
            inputs=_inputs(flags, "<"),
            rerun="!" not in flags,
            max_attempts=None if "^" in flags else tries,
            backoff=backoff,
        )
        compensation = Call(
            f"compensation.{match['name']}",
            inputs=_inputs(flags, ">"),
            max_attempts=compensation_tries,
            backoff=backoff,
        )
        needs_compensation = not past and not {"-", "?"} & set(flags)
        compensation = compensation if needs_compensation else None
        about = {"pivot": "*" in flags, "read_only": "?" in flags}
        commit = _commit(match["name"], flags, backoff)
        steps.append(PlanStep(match["name"], action, compensation, **about, commit=commit))
    return tuple(steps)


def _commit(name: str, flags: list[str], backoff: float) -> Call | None:
    inputs = _inputs(flags, "+")
    if not inputs and "&" not in flags:
        return None
    return Call(f"commit.{name}", inputs=inputs, max_attempts=None, backoff=backoff)


def _inputs(flags: list[str], mark: str) -> tuple[Input, ...]:
    keys = [flag[1:] for flag in flags if flag[0] == mark]
    return tuple(Input(key, (key,)) for key in keys)


@dataclass
class Scenario:
    """A saga to which things happen, one script word after the other."""

    execution: SagaExecution
    now: float = START
    #: What the last word led to; a claim is not an event and leads to nothing.
    commands: tuple[ev.Command, ...] = ()
    refusal: str = ""
    unchanged: bool = False
    #: All events so far, and every execution that has been seen.
    events: list[ev.Event] = field(default_factory=list)
    #: All that was sent so far, such as ``f0.1~2``.
    sent: list[str] = field(default_factory=list)
    seen: list[SagaExecution] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        shape: str | Plan,
        deadline: float | None = None,
        result: int = 0,
        values: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> Scenario:
        """A saga of ``shape`` that has not begun; ``deadline`` is in seconds from its start.

        With ``result=1`` its result is to be stored, with ``result=2`` it has callers besides, and
        with ``result=3`` callers only.
        """
        until = None if deadline is None else START + deadline
        plan = shape if isinstance(shape, Plan) else plan_of(shape, **limits)
        context = {"input": 1, **(values or {})}
        execution = SagaExecution.create("s", plan, context, at=START, deadline=until)
        callbacks = {"callbacks": [{"task": "t"}]} if result > 1 else None
        execution = replace(execution, wants_result=result in (1, 2), callbacks=callbacks)
        return cls(execution, seen=[execution])

    def play(self, script: str) -> Scenario:
        """Let all of ``script`` happen, a second between two words."""
        for word in script.split(","):
            self._happen(word.split())
            self.seen.append(self.execution)
        return self

    def decide(self, event: ev.Event) -> None:
        """Hand an event to the state machine."""
        decision = decide(self.execution, event)
        self.unchanged = decision.execution is self.execution
        self.execution, self.commands = decision.execution, decision.commands
        self.refusal = type(decision.refusal).__name__ if decision.refusal else ""
        self.events.append(event)
        sent = (each.ref for each in decision.commands if isinstance(each, ev.Dispatch))
        self.sent += map(str, sent)

    def _happen(self, word: list[str]) -> None:
        self.now += 1
        self.commands, self.refusal, self.unchanged = (), "", True
        if word[0] == "wait":
            self.now += float(word[1])
        elif match := _REF.fullmatch(word[0]):
            self._happen_to_ref(match, word[1], word[2:])
        else:
            self.decide(_SAGA_WORDS[word[0]](self.now, *word[1:]))

    def _happen_to_ref(self, match: re.Match[str], verb: str, args: list[str]) -> None:
        letter, place, epoch, retries, unclaimed = match.groups()
        path = tuple(map(int, place.split(".")))
        step = self.execution.steps[path]
        ref = StepRef(path, Direction(letter), int(epoch or step.epoch))
        newest = self.execution.ref(path) == ref
        if retries is None:
            retries = step.retries if newest else 0
        token, instance = f"{ref}/{retries}", "worker"
        if verb == "claimed" and args:
            token, instance = f"{token} {args[0]}", args[0]
        claim = Claim(token, instance, int(retries), self.now)
        if verb == "claimed" or (verb in _BY_CLAIM and newest and not step.claim and not unclaimed):
            taken = claimed(self.execution, ref, claim)
            self.unchanged = taken is None or taken is self.execution
            self.execution = taken or self.execution
        if verb != "claimed":
            self.decide(_SLOT_WORDS[verb](self.now, ref, claim, *args))


def boom(name: str = "Boom") -> Failure:
    """An error that a step ends with."""
    return Failure(name, "it broke", "")


def _succeeded(at: float, ref: StepRef, claim: Claim, *changes: str) -> ev.Event:
    update = dict(change.split("=") for change in changes if "=" in change)
    remove = tuple(change[1:] for change in changes if change[0] == "-")
    return ev.StepSucceeded(at, ref, claim.token, update, remove)


def _answered(at: float, ref: StepRef, claim: Claim, *, answer: bool) -> ev.Event:
    return ev.StepSucceeded(at, ref, claim.token, answer=answer)


def _failed(at: float, ref: StepRef, claim: Claim, *how: str) -> ev.Event:
    return ev.StepFailed(at, ref, boom(), claim.token, effect="effect" in how, final="final" in how)


def _failed_outside(at: float, ref: StepRef, claim: Claim, instance: str = "worker") -> ev.Event:
    return ev.StepFailed(at, ref, boom("TimeLimitExceeded"), instance=instance, effect=True)


def _failed_before(at: float, ref: StepRef, claim: Claim) -> ev.Event:
    return ev.StepFailed(at, ref, boom(), retries=claim.retries)


def _released(at: float, ref: StepRef, claim: Claim, retries: str, delay: str = "0") -> ev.Event:
    return ev.StepReleased(at, ref, claim.token, int(retries), at + float(delay))


def _resent(at: float, ref: StepRef, claim: Claim, retries: str, delay: str = "0") -> ev.Event:
    due = at + float(delay)
    return ev.StepReleased(at, ref, "", int(retries), due, instance="worker", lost=True)


def _voided(at: float, ref: StepRef, claim: Claim) -> ev.Event:
    return ev.ClaimVoided(at, ref, claim.token)


def _process_dead(at: float, ref: StepRef, claim: Claim, instance: str = "worker") -> ev.Event:
    return ev.ClaimVoided(at, ref, instance=instance)


def _process_lost(at: float, ref: StepRef, claim: Claim, instance: str = "worker") -> ev.Event:
    return ev.ClaimVoided(at, ref, instance=instance, started=True)


def _revoked(at: float, ref: StepRef, claim: Claim, instance: str = "worker") -> ev.Event:
    return ev.StepRevoked(at, ref, boom("TaskRevokedError"), instance, terminated=True)


def _dropped(at: float, ref: StepRef, claim: Claim, instance: str = "worker") -> ev.Event:
    return ev.StepRevoked(at, ref, boom("TaskRevokedError"), instance)


def _unknown(at: float, ref: StepRef, claim: Claim) -> ev.Event:
    return ev.TaskUnknown(at, ref)


#: Words of one who has claimed the ref.
_BY_CLAIM = frozenset(
    {"ok", "true", "false", "fails", "released", "resent", "void", "killed", "dead"}
)

_SLOT_WORDS: dict[str, Callable[..., ev.Event]] = {
    "ok": _succeeded,
    "true": partial(_answered, answer=True),
    "false": partial(_answered, answer=False),
    "fails": _failed,
    "killed": _failed_outside,
    "unbegun": _failed_before,
    "released": _released,
    "resent": _resent,
    "void": _voided,
    "dead": _process_dead,
    "died": _process_lost,
    "revoked": _revoked,
    "dropped": _dropped,
    "unknown": _unknown,
}


def _start(at: float, later: str = "") -> ev.Event:
    return ev.Started(at, at + float(later) if later else None)


def _overdue(at: float, state: str = "not_checked") -> ev.Event:
    return ev.Overdue(at, ev.MessageState(state))


def _retry(at: float, *changes: str) -> ev.Event:
    return ev.RetryRequested(at, "ann", dict(change.split("=") for change in changes))


def _signal(at: float, name: str, token: str = "t") -> ev.Event:
    return ev.SignalReceived(at, name, "true", token, "ann")


_SAGA_WORDS: dict[str, Callable[..., ev.Event]] = {
    "start": _start,
    "overdue": _overdue,
    "signal": _signal,
    "stored": lambda at, status: ev.ResultStored(at, SagaStatus(status)),
    "cancel": lambda at: ev.CancelRequested(at, "ann"),
    "pause": lambda at: ev.PauseRequested(at, "ann"),
    "resume": lambda at: ev.ResumeRequested(at, "ann"),
    "retry": _retry,
    "skip": lambda at: ev.SkipRequested(at, "ann"),
    "resolve": lambda at, status: ev.ResolveRequested(at, SagaStatus(status), "ann"),
}


def spoken(scenario: Scenario) -> str:
    """What the last word led to, in the words of the table."""
    if scenario.refusal:
        return f"refused {scenario.refusal}"
    if scenario.unchanged and not scenario.commands:
        return "same"
    return ", ".join(map(_spoken, scenario.commands)) or "saved"


def _spoken(command: ev.Command) -> str:
    if isinstance(command, ev.Dispatch):
        return f"send {command.ref}" + (f" r{command.retries}" if command.retries else "")
    if isinstance(command, ev.NotifyCallers):
        return f"notify {command.status}" + " again" * command.again
    return f"alert {command.name}"
