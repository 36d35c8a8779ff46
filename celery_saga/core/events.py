"""The language of the state machine: events (what happened) and commands (what to do).

In Chassaing's decider pattern the two words are used the other way round for the input; here an
event is a fact that is reported, and a command is what the shell shall do after the save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from celery_saga.core.execution import Failure, SagaExecution, SagaStatus, StepRef
from celery_saga.core.state import Request
from celery_saga.errors import SagaError


class MessageState(str, Enum):
    """What the shell could find out about the message of a ref that was not claimed."""

    LOST_WITH_WORKER = "lost_with_worker"  #: the worker that had reserved it is dead
    WAITING = "waiting"  #: it is in its queue, or a live worker keeps it for later
    POSSIBLY_QUEUED = (
        "possibly_queued"  #: it may wait, in its queue or with a live worker that has received it
    )
    BACKLOGGED = "backlogged"  #: it may wait in a queue that holds many
    MISSING = "missing"  #: no worker has it and it is not in its queue
    NOWHERE = "nowhere"  #: the same: when it was last sent, it went to no queue
    UNSENT = "unsent"  #: the same: when it was last to be sent, the broker did not take it
    NOT_CHECKED = "not_checked"  #: it was not looked for


@dataclass(frozen=True)
class Started:
    """The saga is to begin (now, or when ``not_before`` has come)."""

    at: float
    not_before: float | None = None


@dataclass(frozen=True)
class StepSucceeded:
    """A step's task returned; ``update`` and ``remove`` are what it did to the context.

    Args:
        answer: of a condition, whether it is true.
        request: of a remote step, what its task has made.
        own: what else of its result its compensation reads, by the keys of its inputs.
    """

    at: float
    ref: StepRef
    token: str
    update: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    answer: bool | None = None
    request: Request | None = None


@dataclass(frozen=True)
class StepFailed:
    """A step's task failed for good, as far as Celery is concerned.

    Args:
        token: of the claim; empty when a worker's main process reports it.
        instance: the reporting worker's instance, when ``token`` is empty.
        effect: whether the effect may have happened all the same.
        final: no attempt of the engine can help (``AbortSaga``).
        retries: Celery's count of a delivery that failed before it claimed the step; ``None``: it
            is not known, or there is a claim.
    """

    at: float
    ref: StepRef
    failure: Failure
    token: str = ""
    instance: str = ""
    effect: bool = False
    final: bool = False
    retries: int | None = None


@dataclass(frozen=True)
class StepReleased:
    """A delivery ended without an outcome and Celery will send it again (retry or requeue).

    Args:
        token: of the claim; empty when a worker's main process reports it.
        retries: Celery's count that the next delivery will carry.
        instance: the reporting worker's instance, when ``token`` is empty.
        lost: the delivery was cut off, so its effect may have happened.
        revised: what the retry changed about the message, as plain JSON.
    """

    at: float
    ref: StepRef
    token: str
    retries: int
    expected_at: float
    instance: str = ""
    lost: bool = False
    revised: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ClaimVoided:
    """The worker that held the claim is dead, or lost the process: the outcome is unknown.

    Args:
        token: of the void claim; empty when a worker's main process lost the ref's request.
        instance: the worker instance that held it.
        started: a process that had taken the message was lost. Without a claim it died before the
            body began.
    """

    at: float
    ref: StepRef
    token: str = ""
    instance: str = ""
    started: bool = False


@dataclass(frozen=True)
class StepRevoked:
    """Celery dropped the message (revoked or expired), or killed its task on a revoke.

    Args:
        terminated: whether a running task was killed. Without it only a message was dropped, which
            may be a copy of one that runs.
    """

    at: float
    ref: StepRef
    failure: Failure
    instance: str = ""
    terminated: bool = False


@dataclass(frozen=True)
class TaskUnknown:
    """A worker got the message and does not know the task."""

    at: float
    ref: StepRef


@dataclass(frozen=True)
class Overdue:
    """The saga was due and is checked.

    Args:
        message: what was found of its messages.
        messages: the same of single messages, where they differ.
    """

    at: float
    message: MessageState = MessageState.NOT_CHECKED
    messages: Mapping[StepRef, MessageState] = field(default_factory=dict)

    def state_of(self, ref: StepRef) -> MessageState:
        """What was found of the message of a ref."""
        return self.messages.get(ref, self.message)


@dataclass(frozen=True)
class ResultStored:
    """That the saga settled in ``status`` is stored as its result, and its callers are notified.

    Args:
        stuck: of a stuck saga how often it had been stuck by then; ``None``: as often as it has.
    """

    at: float
    status: SagaStatus
    stuck: int | None = None


@dataclass(frozen=True)
class CancelRequested:
    """A caller or an operator wants the saga rolled back."""

    at: float
    by: str = ""
    reason: str = "cancelled"


@dataclass(frozen=True)
class PauseRequested:
    """An operator wants no further step to be sent."""

    at: float
    by: str = ""


@dataclass(frozen=True)
class ResumeRequested:
    """An operator ends the pause."""

    at: float
    by: str = ""


@dataclass(frozen=True)
class RetryRequested:
    """An operator wants a stuck saga to continue where it is, with changes to the context.

    ``stuck``: how often it had been stuck when the operator asked; ``None``: whenever it was.
    """

    at: float
    by: str = ""
    update: Mapping[str, Any] = field(default_factory=dict)
    stuck: int | None = None


@dataclass(frozen=True)
class SkipRequested:
    """An operator has dealt with the step that holds a stuck saga up; it continues behind it.

    ``stuck``: how often it had been stuck when the operator asked; ``None``: whenever it was.
    """

    at: float
    by: str = ""
    stuck: int | None = None


@dataclass(frozen=True)
class ResolveRequested:
    """An operator states how a stuck saga has ended: ``COMPLETED`` or ``COMPENSATED``.

    ``stuck``: how often it had been stuck when the operator asked; ``None``: whenever it was.
    """

    at: float
    status: SagaStatus
    by: str = ""
    stuck: int | None = None


@dataclass(frozen=True)
class SignalReceived:
    """A signal was sent to the saga.

    Args:
        name: as :meth:`Plan.signal_of` gives it.
        payload: its JSON text.
        token: unique to the call that sends it.
        by: who did it.
    """

    at: float
    name: str
    payload: str = field(repr=False)
    token: str
    by: str = ""


@dataclass(frozen=True)
class RequestSent:
    """The broker has taken the request of a remote step."""

    at: float
    ref: StepRef


@dataclass(frozen=True)
class ReplyReceived:
    """Another service replied to a request, or it is known to have failed.

    Args:
        token: of the request.
        reply: see :class:`Request`.
        error: what is known of a failure, to be read.
    """

    at: float
    ref: StepRef
    token: str = field(repr=False)
    reply: Mapping[str, Any] = field(repr=False)
    error: str = ""


Event = (
    Started
    | StepSucceeded
    | StepFailed
    | StepReleased
    | ClaimVoided
    | StepRevoked
    | TaskUnknown
    | Overdue
    | ResultStored
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | RetryRequested
    | SkipRequested
    | ResolveRequested
    | SignalReceived
    | RequestSent
    | ReplyReceived
)


@dataclass(frozen=True)
class Dispatch:
    """Send the message of ``ref``; ``retries`` is the Celery retry count that it carries."""

    ref: StepRef
    retries: int = 0


@dataclass(frozen=True)
class NotifyCallers:
    """The saga is settled: notify its callers; ``again`` if that was tried before."""

    status: SagaStatus
    again: bool = False


@dataclass(frozen=True)
class Alert:
    """Something that an operator should know, by its name and a line of text."""

    name: str
    text: str


Command = Dispatch | NotifyCallers | Alert


class Subject(str, Enum):
    """What a transition is of."""

    SAGA = "saga"  #: the status of a saga
    STEP = "step"  #: the status of a step
    ATTEMPT = "attempt"  #: a worker's attempt at a step: claimed, ended
    ALERT = "alert"  #: something that an operator should know


class Transition(NamedTuple):
    """One thing that became of a run, as observers get it once it is saved.

    Args:
        subject: what it is of.
        execution: the run as it is now, of which perhaps only a part was read.
        step: name of the step; empty: it concerns none.
        attempt: number of the attempt at the step, from 1, as in ``saga_info()``; 0: it concerns
            none.
        before: the status before; empty: there was none.
        after: the status now; the name of an alert.
        text: of an alert.
    """

    subject: Subject
    execution: SagaExecution
    step: str = ""
    attempt: int = 0
    before: str = ""
    after: str = ""
    text: str = ""


@dataclass(frozen=True)
class Decision:
    """The new execution and what to do once it is saved.

    Args:
        execution: the same object as before if nothing changes.
        commands: in order.
        refusal: why a request was turned down, for the caller; late reports are never refused.
    """

    execution: SagaExecution
    commands: tuple[Command, ...] = ()
    refusal: SagaError | None = None

    def then(self, move: Callable[..., Decision], *args: Any) -> Decision:
        """This decision, and what ``move`` makes of its execution."""
        after = move(self.execution, *args)
        return Decision(after.execution, self.commands + after.commands, refusal=after.refusal)
