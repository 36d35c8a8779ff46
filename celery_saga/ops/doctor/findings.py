"""Findings of the doctor: each names what is wrong, what it leads to, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Level(str, Enum):
    """The severity of a finding."""

    ERROR = "error"  #: sagas are lost, blocked, or run unsupervised
    WARNING = "warning"  #: in some failure they will be; or it is not known
    INFO = "info"  #: a choice that an operator should know of

    __str__ = str.__str__

    @property
    def rank(self) -> int:
        """The severity as a number; 0 is the worst."""
        return list(Level).index(self)


class Where(str, Enum):
    """The kind of a setting."""

    APP = "app setting"  #: of Celery's configuration, ours among them
    TASK = "task option"  #: of ``@app.task``
    STEP = "step option"  #: of ``saga.local_step``
    SERVER = "server setting"  #: of the Redis or Valkey server
    USER = "server user"  #: of what a user of that server may do
    WORKER = "worker option"  #: of ``celery worker``
    MACHINE = "machine"  #: of the system that a process runs on
    PACKAGE = "package"  #: what is installed
    RECORD = "record"  #: what the store keeps of a saga

    __str__ = str.__str__


@dataclass(frozen=True)
class Finding:
    """One problem, what it leads to, and what to change.

    Args:
        level: its severity.
        what: the problem.
        leads_to: its consequence.
        where: what kind of thing ``setting`` is.
        setting: the one to change, by its name.
        to: the value that it should have.
        about: the tasks, workers, queues or servers that it concerns.
        check: the name of the check that found it.
    """

    level: Level
    what: str
    leads_to: str
    where: Where
    setting: str
    to: str
    about: tuple[str, ...] = ()
    check: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data for JSON."""
        return {**asdict(self), "about": list(self.about)}


#: Names that are listed of many.
SHOWN = 5


def listed(all_names: Iterable[str]) -> str:
    """Names for a sentence: the first few, and how many more there are."""
    names = list(all_names)
    some = ", ".join(names[:SHOWN])
    return some if len(names) <= SHOWN else f"{some} and {len(names) - SHOWN} more"
