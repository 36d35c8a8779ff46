"""The records of a run, by the paths of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, overload

from celery_saga.core.checkpoint import record_to_dict, step_from_dict
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.plan import (
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Path,
    Plan,
    PlanStep,
    Sleep,
    Wait,
    dotted,
)
from celery_saga.core.plan.nodes import children, runs_together
from celery_saga.core.state import SagaStepExecution, StepStatus

#: A path, or the index of a step among all of them; without branches both say the same.
Place = int | Path


#: The record of a node that was not touched.
untouched = lru_cache(maxsize=4096)(SagaStepExecution)


class Steps(Sequence[SagaStepExecution]):
    """The records of a run. As a sequence: those of its steps, in the order of the plan.

    A node that was not touched yet has no record, and a new one is made where it is looked at.
    Groups and loops have records too; they are found by their paths alone.

    Args:
        plan: the run's.
        records: what is known, by path.
        whole: whether that is all there is.
    """

    __slots__ = ("_plan", "_records", "whole")

    def __init__(
        self, plan: Plan, records: Mapping[Path, SagaStepExecution], whole: bool = True
    ) -> None:
        self._plan, self._records, self.whole = plan, records, whole

    @classmethod
    def of(cls, plan: Plan, records: Iterable[SagaStepExecution]) -> Steps:
        """The records of a plan without branches, one a step."""
        return cls(plan, {(index,): record for index, record in enumerate(records)})

    def path(self, place: Place) -> Path:
        """The path of a place.

        Raises:
            IndexError: there is none.
        """
        if isinstance(place, tuple):
            return place
        if self._plan.linear and 0 <= place < len(self._plan.steps):
            return (place,)
        return self.paths()[place]

    @overload
    def __getitem__(self, place: Place) -> SagaStepExecution: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[SagaStepExecution]: ...
    def __getitem__(self, place: Place | slice) -> SagaStepExecution | Sequence[SagaStepExecution]:
        record = self._records.get(place) if isinstance(place, tuple) else None
        if record is not None:
            return record
        if isinstance(place, slice):
            return [self[path] for path in self.paths()[place]]
        path = self.path(place)
        record = self._records.get(path)
        if record is not None:
            return record
        if not self.whole:
            raise NotLoaded(f"step {path}")
        return untouched(self._plan.name_of(path))

    def __iter__(self) -> Iterator[SagaStepExecution]:
        return (self[path] for path in self.paths())

    def __len__(self) -> int:
        return len(self._plan.steps) if self._plan.linear else len(self.paths())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Steps):
            mine, others = self._records, other._records
            paths = mine.keys() | others.keys()
            whole = self.whole and other.whole
            if not whole:
                return self.whole is other.whole and mine == others
            return all(self[path] == other[path] for path in paths)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self._records.values()))

    def paths(self) -> list[Path]:
        """Paths of the steps and waits, and of choices, whose conditions are run as steps are.

        Those of an item are there when its loop has begun, of a choice that was made those of the
        alternative which was taken, and those behind a timeout when it has passed.
        """
        if not self.whole:
            raise NotLoaded("all steps")
        if self._plan.linear:
            return [(index,) for index in range(len(self._plan.steps))]
        return list(self._below(()))

    def _below(self, path: Path) -> Iterator[Path]:
        node = self._plan.at(path)
        if isinstance(node, PlanStep | Choice | Wait | Sleep):
            yield path
        places: Iterable[int] = range(len(children(node)))
        if isinstance(node, ForEach | Choice | Wait):
            chosen = self[path].chosen
            if isinstance(node, ForEach):
                places = range(chosen or 0)
            elif chosen is not None:
                places = (chosen,) if chosen >= 0 else ()
            elif isinstance(node, Wait):
                places = ()
        for place in places:
            yield from self._below((*path, place))
        if isinstance(node, Commits):
            yield from ((*path, *of) for of in self.committing())

    def committing(self) -> Iterator[Path]:
        """Paths of the steps that have a commit task, as far as they are in :meth:`paths`."""
        asked = set(self._plan.committing)
        tops = range(len(self._plan.steps) - 1 if asked else 0)
        below = (path for top in tops for path in self._below((top,)))
        return (path for path in below if self._plan.first_of(path) in asked)

    def items(self) -> Iterable[tuple[Path, SagaStepExecution]]:
        """The records that are known, with their paths."""
        return self._records.items()

    def known(self, path: Path) -> SagaStepExecution | None:
        """The record of a node that was touched, if it was read."""
        return self._records.get(path)

    def every(self) -> Iterable[tuple[Path, SagaStepExecution]]:
        """All records that there are, with their paths.

        Without branches no more than one step is under way, and that one was read.
        """
        if not self.whole and not self._plan.linear:
            raise NotLoaded("all records")
        return self._records.items()

    def replacing(self, path: Path, record: SagaStepExecution) -> Steps:
        """These, with one record replaced."""
        return Steps(self._plan, {**self._records, path: record}, self.whole)

    def is_over(self, path: Path) -> bool:
        """Whether the way forward is done with a node."""
        node = self._plan.at(path)
        if isinstance(node, NestedSaga):
            return self.is_over((*path, len(node.steps) - 1))
        return self[path].status in (StepStatus.SUCCEEDED, StepStatus.SKIPPED)

    def frontier(self, path: Path = ()) -> Iterator[Path]:
        """Paths of the nodes that come next, and of those that are under way.

        A node that has others inside is one of them only as long as it has not begun.
        """
        node = self._plan.at(path)
        if isinstance(node, NestedSaga):
            below = ((*path, place) for place in range(len(node.steps)))
            first = next((each for each in below if not self.is_over(each)), None)
            yield from () if first is None else self.frontier(first)
        elif isinstance(node, PlanStep) or self[path].status is not StepStatus.RUNNING:
            yield path
        else:
            yield from self._inside(path, node)

    def _inside(self, path: Path, node: Node) -> Iterator[Path]:
        """The frontier inside a group, a loop or a choice that has begun, or behind a timeout."""
        chosen = self[path].chosen
        if isinstance(node, Choice | Wait):
            yield from self.frontier((*path, chosen)) if chosen is not None else (path,)
            return
        if isinstance(node, Commits):
            tasks = ((*path, *of) for of in self.committing())
            yield from (task for task in tasks if not self.is_over(task))
            return
        count = len(node.branches) if isinstance(node, Parallel) else chosen or 0
        for place in range(count):
            if not self.is_over((*path, place)):
                yield from self.frontier((*path, place))
                if not runs_together(node):
                    return

    def raw(self) -> list[dict[str, Any]]:
        """The records as plain data: one a step; with branches all that there are, with paths."""
        if self._plan.linear:
            return [record_to_dict(step) for step in self]
        return [{"path": dotted(path), **record_to_dict(step)} for path, step in self.items()]

    @classmethod
    def from_raw(cls, plan: Plan, raw: Sequence[Mapping[str, Any]]) -> Steps:
        """The reverse of :meth:`raw`.

        Raises:
            ValueError: they are not those of the plan.
        """
        records = [dict(record) for record in raw]
        if plan.linear:
            paths: list[Path] = [(index,) for index in range(len(records))]
            if len(paths) != len(plan.steps):
                raise ValueError("its steps are not those of its plan")
        else:
            paths = [tuple(map(int, record.pop("path").split("."))) for record in records]
        steps = cls(plan, dict(zip(paths, map(step_from_dict, records), strict=True)))
        for path, step in steps.items():
            if not plan.has(path) or step.name != plan.name_of(path):
                raise ValueError("its steps are not those of its plan")
        return steps
