"""The nodes of a plan: a saga is a tree of them, and a step is a leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from celery_saga.core.plan.call import Call
from celery_saga.core.state import Direction


@dataclass(frozen=True)
class PlanStep:
    """One step: its action, its compensation, and how failures of it are read.

    Args:
        read_only: the action leaves nothing behind, however it ends.
        on_exhausted: what follows when its attempts are used up: ``compensate``: the rollback;
            ``pause``: the saga is stuck there until an operator has the step tried again.
        result_key: see :attr:`key`; empty: the step's name.
        commit: what is run for it when all steps have ended: see :class:`Commits`.
    """

    name: str
    action: Call
    compensation: Call | None = None
    pivot: bool = False
    compensate_on_failure: bool | tuple[str, ...] = False
    read_only: bool = False
    on_exhausted: str = "compensate"
    result_key: str = ""
    commit: Call | None = None

    @property
    def key(self) -> str:
        """The context key of a result that is not a mapping, if the action names none.

        In a nested saga it is the step's name without that of the saga.
        """
        return self.result_key or self.name

    @property
    def is_remote(self) -> bool:
        """Whether another service does its work."""
        return False

    @property
    def tasks_read_only(self) -> bool:
        """Whether its own tasks leave nothing behind, however they end."""
        return self.read_only or self.is_remote

    def handler(self, status: int) -> Call | None:
        """What is run with a reply of that status."""
        return None

    @cached_property
    def later_reads(self) -> frozenset[str]:
        """The context keys from which its compensation and commit task get inputs by name.

        One in context style gets the whole context instead, as it is then.
        """
        calls = (each for each in (self.compensation, self.commit) if each is not None)
        return frozenset().union(*(_keys_of(each) for each in calls if each.style == "inputs"))

    @cached_property
    def own_keys(self) -> frozenset[str]:
        """The keys that its later tasks read and its action does not: its result may hold them.

        An action in context style reads all of the context.
        """
        if self.action.style == "context":
            return frozenset()
        return self.later_reads - _keys_of(self.action)


def _keys_of(call: Call) -> frozenset[str]:
    return frozenset(str(item.path[0]) for item in call.inputs if item.path)


@dataclass(frozen=True)
class RemoteStep(PlanStep):
    """A step of another service. Its action makes a request, which is sent, and its reply awaited.

    The same holds for its compensation. Its own tasks leave nothing behind; its request does, even
    if no reply comes.

    Args:
        on_success: is run with a reply of status SUCCESS; ``None``: nothing is done with it.
        on_error: is run with a reply of status ERROR; ``None``: the step has failed then.
        timeout: seconds from a request until it has failed without a reply.
    """

    on_success: Call | None = None
    on_error: Call | None = None
    timeout: float = 3600.0

    @property
    def is_remote(self) -> bool:
        """It is."""
        return True

    def handler(self, status: int) -> Call | None:
        """What is run with a reply of that status."""
        return {200: self.on_success, 400: self.on_error}.get(status)


@dataclass(frozen=True)
class NestedSaga:
    """Nodes that are run one after the other: a branch, or a saga as a step of another one.

    Args:
        inputs: keys that its steps see of the context around it: their name inside, their name
            outside. ``None``: all of it.
        returns: keys that the context around it gets when it is over: their name outside, their
            name inside. ``None``: all that its steps wrote.
        model: of its context, as ``module.Class``; empty: there is none.
    """

    name: str
    steps: tuple[Node, ...]
    inputs: Mapping[str, str] | None = None
    returns: Mapping[str, str] | None = None
    model: str = ""

    @property
    def scoped(self) -> bool:
        """Whether its steps write into a scope of their own."""
        return self.inputs is not None or self.returns is not None


@dataclass(frozen=True)
class Parallel:
    """Branches that are run at the same time, and joined when all of them are over.

    Args:
        compensate_parallel: the compensations of different branches may run at the same time.
    """

    name: str
    branches: tuple[Node, ...]
    compensate_parallel: bool = False


@dataclass(frozen=True)
class Case:
    """One alternative of a choice: it is taken if its condition answers with a true value."""

    condition: Call
    node: Node


@dataclass(frozen=True)
class Choice:
    """Alternatives, of which the first is taken whose condition is true.

    Args:
        otherwise: is taken if no condition is true; ``None``: nothing is done then.
    """

    name: str
    cases: tuple[Case, ...]
    otherwise: Node | None = None


@dataclass(frozen=True)
class ForEach:
    """A body that is run for each item of a list in the context; the list is read once.

    Args:
        over: path to the list in the context: a key, then keys and places inwards.
        item: the key under which the body sees its item.
        body: what is run for each item.
        parallel: all items at the same time; otherwise one after the other.
        returns: key for the list of what each item wrote under that same key, in the order of the
            items; nothing else of what they wrote is kept then. ``None``: all of it is kept. What
            items wrote at the same time becomes a list under its key; one after the other, the
            last item's value holds.
        compensate_parallel: the compensations of different items may run at the same time.
    """

    name: str
    over: tuple[str | int, ...]
    item: str
    body: Node
    parallel: bool = False
    returns: str | None = None
    compensate_parallel: bool = False


@dataclass(frozen=True)
class Wait:
    """Waits for a signal from outside; nothing is sent meanwhile, and no worker is occupied.

    Args:
        signal: the signal's name; in loops it has the numbers of the items: ``approved[7]``.
        timeout: seconds until it ends without the signal; ``None``: never.
        on_timeout: what is run then; ``None``: the wait has failed.
        key: the context key of the signal's payload; ``None``: it is dropped.
    """

    name: str
    signal: str
    timeout: float | None = None
    on_timeout: Node | None = None
    key: str | None = None


@dataclass(frozen=True)
class Sleep:
    """Waits for ``seconds``; nothing is sent meanwhile, and no worker is occupied."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Commits:
    """The last node of a plan: commit tasks of the steps that have run, all at the same time.

    Below it are the paths of these steps: if it is at ``(3,)``, the commit task of the step at
    ``(0, 1)`` is at ``(3, 0, 1)``.
    """

    name: ClassVar[str] = "commit"


Node = PlanStep | NestedSaga | Parallel | Choice | ForEach | Wait | Sleep | Commits


def commit_of(step: Node) -> PlanStep:
    """The commit task of a step, as a step of its own.

    Raises:
        IndexError: it has none.
    """
    if not isinstance(step, PlanStep) or step.commit is None:
        raise IndexError(f"{step.name!r} has no commit task")
    return PlanStep(f"{step.name}.commit", step.commit)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes inside of one; a loop has one body for all its items."""
    if isinstance(node, NestedSaga):
        return node.steps
    if isinstance(node, Parallel):
        return node.branches
    if isinstance(node, ForEach):
        return (node.body,)
    if isinstance(node, Choice):
        rest = () if node.otherwise is None else (node.otherwise,)
        return (*(case.node for case in node.cases), *rest)
    if isinstance(node, Wait):
        return () if node.on_timeout is None else (node.on_timeout,)
    return ()


def child(node: Node, place: int) -> Node:
    """The node at ``place`` inside of another one; a loop has one for all places."""
    return node.body if isinstance(node, ForEach) else children(node)[place]


def runs_together(node: Node) -> bool:
    """Whether the nodes inside of one are run at the same time."""
    return isinstance(node, Parallel) or (isinstance(node, ForEach) and node.parallel)


def calls_of(node: Node) -> Iterator[tuple[Call, Direction]]:
    """The calls of a node, without those of the nodes inside of it."""
    if isinstance(node, Choice):
        for case in node.cases:
            yield case.condition, Direction.FORWARD
    elif isinstance(node, PlanStep):
        yield node.action, Direction.FORWARD
        if node.compensation is not None:
            yield node.compensation, Direction.COMPENSATION
        for handler in (node.on_success, node.on_error) if isinstance(node, RemoteStep) else ():
            if handler is not None:
                yield handler, Direction.FORWARD


def with_calls(node: Node, changed: Callable[[Call], Call]) -> Node:
    """A node with each of its calls changed, and those of the nodes inside."""
    if isinstance(node, PlanStep):
        roles = ("action", "compensation", "commit", "on_success", "on_error")
        known = {role: getattr(node, role, None) for role in roles}
        calls: dict[str, Any] = {role: changed(call) for role, call in known.items() if call}
        return replace(node, **calls)
    if isinstance(node, NestedSaga):
        return replace(node, steps=tuple(with_calls(each, changed) for each in node.steps))
    if isinstance(node, Parallel):
        return replace(node, branches=tuple(with_calls(each, changed) for each in node.branches))
    if isinstance(node, ForEach):
        return replace(node, body=with_calls(node.body, changed))
    if isinstance(node, Wait):
        after = None if node.on_timeout is None else with_calls(node.on_timeout, changed)
        return replace(node, on_timeout=after)
    if isinstance(node, Sleep | Commits):
        return node
    cases = (Case(changed(case.condition), with_calls(case.node, changed)) for case in node.cases)
    rest = None if node.otherwise is None else with_calls(node.otherwise, changed)
    return replace(node, cases=tuple(cases), otherwise=rest)
