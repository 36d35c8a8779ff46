"""The plan of one run: what to do, as plain data.

A plan holds names and options and no callables. It is made when a saga starts, frozen in the
checkpoint, and is all that a worker needs to drive the run: a deploy that changes the definition
does not touch a saga that is under way.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from celery_saga.core.context.codec import JSON
from celery_saga.core.context.scoped import Scope, lookups, split
from celery_saga.core.plan.call import Call
from celery_saga.core.plan.nodes import (
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    PlanStep,
    Sleep,
    Wait,
    calls_of,
    child,
    children,
    commit_of,
    runs_together,
    with_calls,
)
from celery_saga.core.plan.text import node_from_dict, shown, to_dict
from celery_saga.core.state import Direction

#: Where a node is in the tree: indexes from the root inwards; of a loop's body, that of the item.
Path = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """All nodes of one run, with the limits that hold for it.

    Args:
        saga: the saga's name.
        steps: what is run one after the other: steps, and nodes that have others inside.
        max_redeliveries: how often a step whose outcome is unknown is run again.
        unknown_task_grace: seconds for which a task that no worker knows is offered again.
        context_limit: characters of all values of the context as JSON; ``None``: no limit.
        on_compensation_failure: ``continue``: the other compensations are run all the same;
            ``stop``: the saga is stuck at once.
        model: of its context, as ``module.Class``; empty: there is none.
    """

    saga: str
    steps: tuple[Node, ...]
    max_redeliveries: int = 3
    unknown_task_grace: float = 600.0
    on_compensation_failure: str = "continue"
    model: str = ""
    context_limit: int | None = 4 * 1024 * 1024

    @cached_property
    def root(self) -> NestedSaga:
        """All of it as one node, whose path is empty."""
        return NestedSaga(self.saga, self.steps, model=self.model)

    @cached_property
    def linear(self) -> bool:
        """Whether it is steps alone, one after the other."""
        return all(isinstance(step, PlanStep) for step in self.steps)

    @cached_property
    def _known(self) -> dict[Path, Node]:
        return {(): self.root}

    def at(self, path: Path) -> Node:
        """The node at ``path``.

        Raises:
            IndexError: there is none.
        """
        found = self._known.get(path)
        if found is None:
            of = self.committed(path)
            found = child(self.at(path[:-1]), path[-1]) if of is None else commit_of(self.at(of))
            self._known[path] = found
        return found

    @cached_property
    def commits(self) -> Path | None:
        """Where the commit tasks are, if there are any."""
        last = len(self.steps) - 1
        return (last,) if self.steps and isinstance(self.steps[last], Commits) else None

    def committed(self, path: Path) -> Path | None:
        """The path of the step whose commit task is at ``path``; ``None``: it is something else."""
        return None if self.commits is None or path[:1] != self.commits else path[1:] or None

    @cached_property
    def committing(self) -> tuple[Path, ...]:
        """Paths of the steps that have a commit task."""
        tops = range(len(self.steps) if self.commits is None else self.commits[0])
        found = (each for top in tops for each in self.walk((top,)))
        return tuple(path for path, node in found if isinstance(node, PlanStep) and node.commit)

    def above(self, path: Path) -> Path:
        """The path of the node that another one is inside of."""
        return path[:1] if self.committed(path) else path[:-1]

    def has(self, path: Path) -> bool:
        """Whether there is a node at ``path``; of a loop's body with any number."""
        try:
            self.at(path)
        except IndexError:
            return False
        return True

    def step(self, path: Path) -> PlanStep:
        """The step at ``path``.

        A choice counts as one, whose task is its first condition, and a wait as one without a task.
        """
        node = self.at(path)
        if isinstance(node, Wait | Sleep):
            return PlanStep(node.name, Call(""), read_only=True)
        if isinstance(node, Choice):
            return PlanStep(node.name, node.cases[0].condition, read_only=True)
        assert isinstance(node, PlanStep)
        return node

    def name_of(self, path: Path) -> str:
        """The name of a node; in loops with the numbers of the items: ``ship[7]``."""
        return self.at(path).name + self._items_of(path)

    def key_of(self, stored: str) -> str:
        """A stored key of the context in words; of a branch, an item or a nested saga with that."""
        scope, key = split(stored)
        if not scope:
            return repr(key)
        return f"{key!r} of {self.name_of(path_of_scope(scope))!r}"

    @cached_property
    def signals(self) -> Mapping[str, int]:
        """The signals for which its waits are, and the numbers of the loops around each."""
        found = {}
        for path, node in self.walk():
            if isinstance(node, Wait):
                parents = [self.at(path[:depth]) for depth in range(len(path))]
                found[node.signal] = sum(isinstance(each, ForEach) for each in parents)
        return found

    def signal_of(self, path: Path) -> str:
        """The name of the signal that a wait is for, in loops with the numbers of the items."""
        node = self.at(path)
        assert isinstance(node, Wait)
        return node.signal + self._items_of(path)

    def _items_of(self, path: Path) -> str:
        """The numbers of the items around a node: ``[7]``."""
        if self.linear:
            return ""
        path = self.committed(path) or path
        items = [
            f"[{place}]"
            for depth, place in enumerate(path)
            if isinstance(self.at(path[:depth]), ForEach)
        ]
        return "".join(items)

    def first_of(self, path: Path) -> Path:
        """The path of the same node in the first item of each loop around it."""
        of = self.committed(path)
        if of is not None:
            return (*path[:1], *self.first_of(of))
        loops = (isinstance(self.at(path[:depth]), ForEach) for depth in range(len(path)))
        return tuple(0 if loop else place for place, loop in zip(path, loops, strict=True))

    @cached_property
    def leaves(self) -> tuple[Path, ...]:
        """Paths of all steps, choices and waits; of a loop those of its first item."""
        kinds = PlanStep | Choice | Wait | Sleep
        return tuple(path for path, node in self.walk() if isinstance(node, kinds))

    @cached_property
    def first(self) -> Path:
        """Where the first task is; of the branches of a group that of the first."""
        if self.linear:
            return (0,)
        tasks = (path for path in self.leaves if not isinstance(self.at(path), Wait | Sleep))
        return next(tasks, self.leaves[0])

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """All nodes with their paths, the outer ones first; of a loop's items the first."""
        node = self.at(path)
        yield path, node
        for place in range(len(children(node))):
            yield from self.walk((*path, place))
        for of in self.committing if isinstance(node, Commits) else ():
            yield from self.walk((*path, *of))

    @cached_property
    def pivot(self) -> Path | None:
        """Where the pivot is, if there is one."""
        pivots = (path for path, node in self.walk() if isinstance(node, PlanStep) and node.pivot)
        return next(pivots, None)

    def scopes(self, path: Path) -> tuple[Scope, ...]:
        """The scopes through which a node reads the context, the one into which it writes first."""
        known = self._scopes.get(path)
        if known is None:
            known = self._scopes[path] = self._scopes_of(path)
        return known

    @cached_property
    def _scopes(self) -> dict[Path, tuple[Scope, ...]]:
        return {}

    def _scopes_of(self, path: Path) -> tuple[Scope, ...]:
        path, found = self.committed(path) or path, [Scope("")]
        for depth in range(0 if self.linear else len(path)):
            node = self.at(path[:depth])
            if isinstance(node, NestedSaga) and node.scoped:
                found.append(Scope(f"{dotted(path[:depth])}s", node.inputs))
            elif isinstance(node, Parallel | ForEach):
                found.append(Scope(dotted(path[: depth + 1])))
        return tuple(reversed(found))

    def models(self, path: Path) -> tuple[str, ...]:
        """The models that describe what a step writes, the innermost saga's first.

        Items of loops write values of which the context around them gets lists, and a nested saga
        with ``inputs`` or ``returns`` has names of its own. So what is around them says nothing. A
        commit task writes nothing.
        """
        if self.committed(path):
            return ()
        found = []
        for depth in range(len(path) - 1, -1, -1):
            node = self.at(path[:depth])
            if isinstance(node, ForEach):
                break
            if isinstance(node, NestedSaga):
                found += [node.model] if node.model else []
                if node.scoped:
                    break
        return tuple(found)

    @cached_property
    def readers(self) -> Mapping[str, tuple[Path, ...]]:
        """For each context key the steps whose later tasks read it by name, in any scope."""
        found: dict[str, tuple[Path, ...]] = {}
        for path, node in self.walk():
            for key in node.later_reads if isinstance(node, PlanStep) else ():
                for name in dict.fromkeys(name for _, name in lookups(self.scopes(path), key)):
                    found[name] = (*found.get(name, ()), path)
        return found

    def readers_in(self, path: Path, readers: tuple[Path, ...]) -> Iterator[Path]:
        """Of these steps the ones that see the scope into which a node writes."""
        around = self.first_of(path_of_scope(self.scopes(path)[0].id))
        return (each for each in readers if each[: len(around)] == around)

    @cached_property
    def repeated_tasks(self) -> frozenset[str]:
        """The tasks that more than one step may run, or one step for more than one item."""
        found = Counter[str]()
        for path, node in self.walk():
            if isinstance(node, PlanStep):
                found[node.action.task] += 1 + bool(self._items_of(path))
        return frozenset(task for task, count in found.items() if count > 1)

    @cached_property
    def compensates_in_parallel(self) -> bool:
        """Whether compensations may run at the same time anywhere in it."""
        groups = (node for _, node in self.walk() if isinstance(node, Parallel | ForEach))
        return any(node.compensate_parallel for node in groups)

    def independent(self, one: Path, other: Path) -> bool:
        """Whether two compensations may run at the same time: a group where they part says so."""
        for depth, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                node = self.at(one[:depth])
                return isinstance(node, Parallel | ForEach) and node.compensate_parallel
        return False

    def ends_before(self, one: Path, other: Path) -> bool:
        """Whether a step always ends before another one begins."""
        for depth, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return a < b and not runs_together(self.at(one[:depth]))
        return False

    @cached_property
    def text(self) -> str:
        """The plan as JSON; what makes two plans differ makes their texts differ."""
        return JSON.dumps(to_dict(self), "plan")

    def __str__(self) -> str:
        """The tree, a line for each node with its path."""
        width = max(len(dotted(path)) for path, _ in self.walk())
        lines = [f"{dotted(path):<{width}}  {shown(node)}" for path, node in self.walk() if path]
        return "\n".join([self.saga, *(f"  {line}" for line in lines)])

    @cached_property
    def hash(self) -> str:
        """A short digest of :attr:`text`, sent along with every message."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def calls(self) -> Iterator[tuple[Path, Call, Direction]]:
        """All calls with the paths of their steps."""
        for path, node in self.walk():
            for call, direction in calls_of(node):
                yield path, call, direction

    def with_calls(self, changed: Callable[[Call], Call]) -> Plan:
        """This plan, with each of its calls changed."""
        steps = tuple(with_calls(node, changed) for node in self.steps)
        return replace(self, steps=steps)

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """The plan that :attr:`text` was made from."""
        data = JSON.loads(text)
        steps = tuple(node_from_dict(step) for step in data.pop("steps"))
        return cls(steps=steps, **data)


def dotted(path: Path) -> str:
    """A path as text: ``2.0.3``."""
    return ".".join(map(str, path))


def path_of_scope(scope: str) -> Path:
    """The path of the node that has a scope of its own, from the scope's id: ``2.0``, ``2s``."""
    return tuple(map(int, scope.removesuffix("s").split("."))) if scope else ()
