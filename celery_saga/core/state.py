"""The records that an execution is made of: statuses, refs, claims, failures, steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from celery_saga.core.reprs import short

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import replace as replace
else:

    def replace(record: T, /, **changes: Any) -> T:
        """Return a copy of a record with some fields replaced.

        The same as :func:`dataclasses.replace`, but it does not run the constructor. One decision
        makes a dozen copies of records of 27 fields, and this takes an eighth of the time.

        Raises:
            TypeError: the record has no such field.
        """
        old = record.__dict__
        fields = old | changes
        if len(fields) > len(old):
            unknown = ", ".join(sorted(changes.keys() - old.keys()))
            raise TypeError(f"{type(record).__name__} has no field {unknown}")
        new = object.__new__(type(record))
        new.__dict__.update(fields)
        return new


class _Errored(property):
    """Of a status, whether it is one of the two; of the class, what equals both of them."""

    @overload  # type: ignore[override]
    def __get__(self, status: None, owner: type[Enum]) -> _Errored: ...
    @overload
    def __get__(self, status: Enum, owner: type[Enum]) -> bool: ...
    def __get__(self, status: Enum | None, owner: type[Enum]) -> _Errored | bool:
        found: _Errored | bool = super().__get__(status, owner)
        return found

    def __eq__(self, other: object) -> bool:
        return other.Errored if isinstance(other, SagaStatus) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class SagaStatus(str, Enum):
    """Where a saga is. The status is never better than what the engine knows."""

    CREATED = "CREATED"  #: saved, its first step is not sent yet
    RUNNING = "RUNNING"  #: on its way forward
    PAUSED = "PAUSED"  #: stopped between two steps by an operator
    COMPENSATING = "COMPENSATING"  #: it is rolled back
    COMPLETED = "COMPLETED"  #: every step's effect exists
    COMPENSATED = "COMPENSATED"  #: every known or possible effect was compensated
    STUCK = "STUCK"  #: an operator is needed; never expires

    # The Minos framework's names.
    Created = "CREATED"
    Running = "RUNNING"
    Paused = "PAUSED"
    Finished = "COMPLETED"

    @_Errored
    def Errored(self) -> bool:
        """Whether it is COMPENSATED or STUCK. ``status == SagaStatus.Errored`` says the same."""
        return self in (SagaStatus.COMPENSATED, SagaStatus.STUCK)

    __str__ = str.__str__


class StepStatus(str, Enum):
    """Where one step is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"  #: sent, or being run
    WAITING = "WAITING"  #: waits for the engine's next attempt, a signal or a time
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"  #: it may have happened
    COMPENSATING = "COMPENSATING"
    COMPENSATED = "COMPENSATED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    SKIPPED = "SKIPPED"

    __str__ = str.__str__


#: Nothing happens to these by itself any more (a late effect or an operator may reopen them).
TERMINAL = frozenset({SagaStatus.COMPLETED, SagaStatus.COMPENSATED})
#: Those that ``get()`` no longer waits for.
SETTLED = TERMINAL | {SagaStatus.STUCK}


class Direction(str, Enum):
    """Which of a step's two tasks is meant. The value is the letter used in message ids."""

    FORWARD = "f"
    COMPENSATION = "c"

    __str__ = str.__str__


class StepRef(NamedTuple):
    """Names one dispatch of one step; :meth:`task_id` makes it a Celery task id.

    A step that is sent again because its claim was void gets a new epoch, and the old messages are
    stale by that: the epoch is a fencing token. A message that was merely lost is sent again under
    the same reference.

    Args:
        path: where the step is in the plan: ``(2,)`` is the third step.
        direction: which of its two tasks.
        epoch: how often the step was sent so far, over both directions.
    """

    path: tuple[int, ...]
    direction: Direction
    epoch: int

    def __str__(self) -> str:
        # A direction is a text, and concatenating is faster than formatting a member of an enum.
        return self.direction + f"{'.'.join(map(str, self.path))}~{self.epoch}"

    @classmethod
    @lru_cache(maxsize=4096)  # the texts are the same in all runs
    def of(cls, text: str) -> StepRef:
        """The reverse of ``str()``.

        Raises:
            ValueError: it is not a reference's text.
        """
        found = cls.parse(f"saga~{text}")
        if found is None:
            raise ValueError(f"{text!r} is not a step reference")
        return found[1]

    def task_id(self, saga_id: str) -> str:
        """``<saga>~<f|c><path>~<epoch>``, such as ``7f3a~f2~1``; a longer path has dots."""
        return f"{saga_id}~{self}"

    def request_id(self, saga_id: str) -> str:
        """The task id of a remote step's request: ``<saga>~<r|s><path>~<epoch>``."""
        letter = "r" if self.direction is Direction.FORWARD else "s"
        return f"{saga_id}~{letter}{str(self)[1:]}"

    @classmethod
    def parse(cls, task_id: str) -> tuple[str, StepRef] | None:
        """Saga id and reference from a task id; ``None`` for the id of an ordinary task."""
        match = _TASK_ID.fullmatch(task_id or "")
        if match is None:
            return None
        saga_id, letter, path, epoch = match.groups()
        direction = Direction.FORWARD if letter == "f" else Direction.COMPENSATION
        return saga_id, cls(tuple(map(int, path.split("."))), direction, int(epoch))


_TASK_ID = re.compile(r"([A-Za-z0-9._-]{1,64})~([fc])(\d+(?:\.\d+)*)~(\d+)")


@dataclass(frozen=True)
class Claim:
    """The right to run one ref, taken before the body starts.

    Args:
        token: unique to one delivery in one process.
        instance: the instance of the worker that holds it.
        retries: Celery's retry count of the claiming message; a higher one takes over.
        at: store time of the claim, seconds since the epoch.
        enclosing_task: id of the task that runs the step inside itself, as a task does that starts
            an eager saga; empty: the step runs as a task of its own.
        node: the name of the worker, such as ``celery@host``; empty: a client runs it.
    """

    token: str
    instance: str
    retries: int = 0
    at: float = 0.0
    enclosing_task: str = ""
    node: str = ""


class AttemptOutcome(str, Enum):
    """How an attempt ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RETRIED = "RETRIED"  #: Celery sends the task again
    LOST = "LOST"  #: its process or worker died: what it did is not known
    REVOKED = "REVOKED"

    __str__ = str.__str__


@dataclass(frozen=True)
class Attempt:
    """One run of a step's task or of its compensation, from its claim to its end.

    Args:
        number: 1 for the first attempt of a step; compensations count on.
        direction: which of the two tasks.
        node: the name of the worker; empty: a client ran it.
        instance: the worker instance, which is new with each start of a worker.
        claimed_at: store time of the claim, seconds since the epoch.
        ended_at: store time at which its end was reported or found out.
        outcome: see :class:`AttemptOutcome`.
        error: type and text of the error; empty: there was none.
    """

    number: int
    direction: Direction
    node: str
    instance: str
    claimed_at: float
    ended_at: float
    outcome: AttemptOutcome
    error: str = ""


#: Attempts of a step that are kept, the newest; and characters of an attempt's error.
ATTEMPTS_KEPT, ATTEMPT_ERROR = 20, 200


@dataclass(frozen=True)
class Failure:
    """An error as it is recorded: names and text, nothing executable.

    Args:
        attempt: the number of the step's attempt that failed; 0: it is not known, or none did.
        arguments: of an error of this library, which make it again.
    """

    type: str
    message: str
    step: str = ""
    attempt: int = 0
    arguments: tuple[str | int | float, ...] = ()

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True)
class Request:
    """The request of a remote step to another service.

    Args:
        token: known to the other service and to this record alone; a reply has it.
        message: what is sent, as plain JSON: ``{"target": ..., "task": ..., "args": text,
            "kwargs": text, "options": {...}}``.
        sent: whether it is known that the broker has taken it.
        until: store time at which it has failed without a reply; ``None``: it was not sent.
        reply: ``{"status": int, "content": text, "related_services": [...]}``; ``None``: none came.
    """

    token: str = field(repr=False)
    message: Mapping[str, Any] = field(repr=False)  # arguments
    sent: bool = False
    until: float | None = None
    reply: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SagaStepExecution:
    """What is known of one step of a run, or of another node of its plan.

    Args:
        name: the step's name.
        status: see :class:`StepStatus`.
        epoch: of the newest dispatch, over both directions; 0 before the first.
        forward_epoch: of the newest forward dispatch, once the compensation was dispatched.
        claim: who runs it.
        effect: an effect was reported, or may exist, and is not compensated.
        retries: the highest Celery retry count seen; a message that is sent again carries it.
        attempts: failed attempts in the engine's own retries, this direction.
        lost: attempts whose outcome stayed unknown, this direction.
        round: how often the forward task began anew after its compensation ran.
        compensation_round: how often the compensation began anew after a late effect.
        late_effect: a late effect arrived while its compensation was active.
        effect_tokens: claims of the effects that were counted; a second report says nothing new.
        expected_at: when the newest message could be taken at the earliest, store time.
        republished: how often that message was sent again.
        unclaimed: how often of these because no worker had it.
        not_before: no dispatch before this store time (the engine's own delays).
        task_unknown_since: since when workers say that they do not know the task.
        error: why the forward task failed.
        compensation_error: why the compensation failed.
        kept: context values of before, as JSON texts, that its compensation reads and that others
            have changed since, or that only its own result holds; a key that was not there: None.
        returned: keys of its result that its compensation reads, where another step or item may run
            the same task.
        revised: how the message of its task's last retry differs from the planned one, as plain
            JSON (:mod:`celery_saga.messaging.retries`); this direction.
        log: the newest attempts, the last one last; one that runs is not among them yet.
        chosen: of a choice which alternative was taken, -1: none of them; of a loop how many items
            it has; of a wait 0, once its timeout has passed.
        asked: of a choice how many of its conditions were answered with a false value.
        left: of a group, and of a loop that runs its items at the same time, how many of its
            branches are not over.
        request: of a remote step, until it has failed or its handler has ended.
        requests: tokens of the step's own requests that have no final reply.
        started_at: first dispatch, store time.
        ended_at: end of the forward task, store time.
    """

    name: str
    status: StepStatus = StepStatus.PENDING
    epoch: int = 0
    forward_epoch: int = 0
    claim: Claim | None = None
    effect: bool = False
    retries: int = 0
    attempts: int = 0
    lost: int = 0
    round: int = 0
    compensation_round: int = 0
    late_effect: bool = False
    effect_tokens: tuple[str, ...] = ()
    expected_at: float | None = None
    republished: int = 0
    unclaimed: int = 0
    not_before: float | None = None
    task_unknown_since: float | None = None
    error: Failure | None = None
    compensation_error: Failure | None = None
    kept: Mapping[str, str | None] | None = field(default=None, repr=False)  # as a context's values
    returned: tuple[str, ...] = ()
    revised: Mapping[str, Any] | None = field(default=None, repr=False)  # arguments
    log: tuple[Attempt, ...] = field(default=(), repr=False)
    chosen: int | None = None
    asked: int = 0
    left: int | None = None
    request: Request | None = None
    requests: tuple[str, ...] = field(default=(), repr=False)
    started_at: float | None = None
    ended_at: float | None = None

    def __repr__(self) -> str:
        return short(self)

    def round_of(self, direction: Direction) -> int:
        """How often its action, or its compensation, began anew."""
        return self.round if direction is Direction.FORWARD else self.compensation_round

    @property
    def open_request(self) -> Request | None:
        """The request that is to be sent, or to which no reply has come."""
        return None if self.request is None or self.request.reply is not None else self.request

    @property
    def reply_status(self) -> int:
        """The status of the reply that its handler is run with; 0: there is none."""
        return (self.request and (self.request.reply or {}).get("status")) or 0

    @property
    def needs_compensation(self) -> bool:
        """Whether its effect exists, and its compensation has not failed for good."""
        return self.effect and self.status is not StepStatus.COMPENSATION_FAILED


@dataclass(frozen=True)
class Note:
    """A line of the history: who did what, when."""

    at: float
    what: str
    by: str = ""
    detail: str = ""


class Signal(NamedTuple):
    """What is known of a signal.

    Args:
        name: see :meth:`Plan.signal_of`.
        payload: its JSON text; ``None``: a wait has used it.
        tokens: of the newest calls that have sent it; each call counts once.
    """

    name: str
    payload: str | None
    tokens: tuple[str, ...] = ()


class OperatorRequest(NamedTuple):
    """What identifies a request of an operator: one that is handed in twice is carried out once."""

    at: float
    verb: str
    by: str = ""
