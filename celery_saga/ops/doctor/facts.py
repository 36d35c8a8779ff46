"""The facts that the doctor's checks examine: plain data, gathered beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Offset:
    """By how many seconds a clock is ahead of this process's: between ``low`` and ``high``.

    The two are as far apart as the call took.
    """

    low: float
    high: float

    @classmethod
    def measured(cls, clock: float, asked: float, answered: float) -> Offset:
        """The offset of a clock that was read between two moments of this process."""
        return cls(clock - answered, clock - asked)

    def since(self, other: Offset) -> Offset:
        """By how much this clock is ahead of the ``other``."""
        return Offset(self.low - other.high, self.high - other.low)

    @property
    def least(self) -> float:
        """By how much the clock differs at least, in either direction."""
        return max(self.low, -self.high, 0.0)


@dataclass(frozen=True)
class Server:
    """A Redis or Valkey server.

    Args:
        url: its address, without the password.
        roles: ``store``, ``broker`` or both.
        run_id: of the running server; equal if two addresses lead to one server.
        settings: by ``CONFIG GET``; empty if that is refused.
        info: by ``INFO``; empty if that is refused.
        refused: what the server said when it refused either.
    """

    url: str
    roles: tuple[str, ...]
    run_id: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def name(self) -> str:
        """The server in a sentence: ``the store redis://...``."""
        of = "the server of " if len(self.roles) > 1 else "the "
        return f"{of}{' and '.join(self.roles)} {self.url}"

    def setting(self, name: str) -> str | None:
        """A setting's value; ``None``: not known."""
        known = {
            "appendonly": {"0": "no", "1": "yes"}.get(self.info.get("aof_enabled", "")),
            "maxmemory": self.info.get("maxmemory"),
            "maxmemory-policy": self.info.get("maxmemory_policy"),
        }
        return self.settings.get(name, known.get(name))


@dataclass(frozen=True)
class StoreFacts:
    """The store of the app's sagas.

    Args:
        url: where it is, without the password; empty for one that has no URL.
        kind: ``redis``, ``memory``, ``other``, or empty if there is none.
        problem: why it cannot be used; empty if it answers.
        clock: of its clock; ``None``: not known.
        alive: the worker instances that send heartbeats to it.
        others: other apps whose workers were there within a day.
    """

    url: str = ""
    kind: str = ""
    problem: str = ""
    clock: Offset | None = None
    alive: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BrokerFacts:
    """The app's broker.

    Args:
        url: where it is, without the password.
        driver: the transport's kind, such as ``redis`` or ``amqp``.
        problem: why it cannot be used; empty if it answers.
        asks: whether it carries remote control commands to workers.
        visibility_timeout: seconds after which a message that is not acknowledged is delivered
            again; ``None``: when its connection is lost.
        one_write: whether the store sends steps together with their checkpoint.
        two_writes_because: why it does not.
    """

    url: str = ""
    driver: str = ""
    problem: str = ""
    asks: bool = True
    visibility_timeout: float | None = None
    one_write: bool = False
    two_writes_because: str = ""


@dataclass(frozen=True)
class Plugin:
    """What a worker with the plugin reports of itself: :mod:`celery_saga.worker.remote_control`.

    ``models``: the models of contexts that it knows; ``None``: it does not report them.
    """

    instance: str
    heartbeat: bool
    pool: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    clock: Offset
    models: frozenset[str] | None = None


@dataclass(frozen=True)
class Worker:
    """A worker that replied.

    Args:
        node: its name; two workers may have the same.
        tasks: what it registers.
        queues: what it consumes.
        engine: it has the engine's own task, and so the plugin.
        plugin: what it reports of that; ``None``: it does not.
    """

    node: str
    tasks: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    engine: bool = False
    plugin: Plugin | None = None


@dataclass(frozen=True)
class RequiredTask:
    """One task of a step of a saga that is committed here, or live.

    Args:
        saga: the saga's name.
        step: the step's.
        task: the task's.
        queue: where its messages go; empty: an exchange decides.
        is_compensation: it is the step's compensation.
        needs_compensation: the step has a compensation.
        reruns: it is run again if its worker is lost.
        declared: this process has it as a task with options of its own, not as a plain function.
        late: its messages are acknowledged when it has ended.
        soft_limit: seconds, as its message or the task says.
        hard_limit: the same.
        models: of the contexts into which the step writes.
        live: how many of the sagas that were read still need it.
    """

    saga: str
    step: str
    task: str
    queue: str
    is_compensation: bool = False
    needs_compensation: bool = False
    reruns: bool = True
    declared: bool = True
    late: bool = True
    soft_limit: float | None = None
    hard_limit: float | None = None
    models: tuple[str, ...] = ()
    live: int = 0


@dataclass(frozen=True)
class TaskTiming:
    """How long a task of the app may keep a message unacknowledged, in seconds.

    Args:
        limit: its longest time limit, if it is acknowledged late.
        countdown: the longest wait before a retry of Celery's.
    """

    task: str
    limit: float | None = None
    countdown: float | None = None


@dataclass(frozen=True)
class Sagas:
    """The sagas in the store.

    Args:
        live: how many are not settled.
        more: there are more than were read.
        stuck: how many wait for an operator.
        overdue: id -> seconds for which the sweep is late with it.
        newer: id -> why it cannot be read here: a newer version saved it.
        damaged: id -> what of its record cannot be read.
    """

    live: int = 0
    more: bool = False
    stuck: int = 0
    overdue: Mapping[str, float] = field(default_factory=dict)
    newer: Mapping[str, str] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """How many cannot be read."""
        return len(self.newer) + len(self.damaged)


@dataclass(frozen=True)
class Facts:
    """All facts about one installation.

    Args:
        app: the app's name.
        settings: of this process, as workers report theirs, and ``saga_sweep_limit``.
        wrong_settings: name -> what is wrong with it; in this process.
        misspelt_settings: unknown name -> the setting that it looks like.
        versions: of this process.
        start_queue: where messages go that start a saga.
        results_private: whether results of tasks go to the process alone that sent the task.
        servers: each Redis server once.
        workers: those that replied.
        required: the tasks that sagas need.
        timings: one for each task that has a limit or a countdown.
        broken: saga -> why it cannot be started.
    """

    app: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    wrong_settings: Mapping[str, str] = field(default_factory=dict)
    misspelt_settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    start_queue: str = "celery"
    results_private: bool = False
    store: StoreFacts = field(default_factory=StoreFacts)
    broker: BrokerFacts = field(default_factory=BrokerFacts)
    servers: tuple[Server, ...] = ()
    workers: tuple[Worker, ...] = ()
    required: tuple[RequiredTask, ...] = ()
    timings: tuple[TaskTiming, ...] = ()
    sagas: Sagas = field(default_factory=Sagas)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def unreachable(self) -> bool:
        """Whether neither store nor broker could be examined."""
        return bool(self.store.problem and self.broker.problem)
