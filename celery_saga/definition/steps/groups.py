"""Steps that have others inside: parallel branches, loops, and other sagas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_saga.definition.operations import owned
from celery_saga.definition.steps.base import LocalSagaStep, SagaStep, StepOwner
from celery_saga.errors import DefinitionError, EmptySagaStepException, SagaNotCommittedException

if TYPE_CHECKING:
    from celery_saga.definition.operations import Order, Target


class NestedSagaStep(SagaStep):
    """Another saga as a step: its steps are run in its place.

    Args:
        saga: the saga; it is committed before the one that it becomes a part of.
        name: its name in that one; by default the name of ``saga``.
        inputs: the only keys that its steps see: a list, or ``{"inside": "outside"}``.
        returns: the only keys that the context gets back: a list, or ``{"outside": "inside"}``.
    """

    def __init__(
        self,
        saga: StepOwner,
        *,
        name: str | None = None,
        inputs: Sequence[str] | Mapping[str, str] | None = None,
        returns: Sequence[str] | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not is_saga(saga):
            hint = ", with .commit() at its end" if issubclass(type(saga), SagaStep) else ""
            hint = " (a task is added with local_step())" if callable(saga) else hint
            raise DefinitionError(f"expected a committed saga{hint}, found {saga!r}")
        self.nested = saga
        self.inputs = _keys("inputs", inputs)
        self.returns = _keys("returns", returns)
        self.options = owned({"name": name})

    @property
    def name(self) -> str:
        """The given name, or that of the saga."""
        return str(self.options["name"] or self.nested.name)

    def validate(self) -> None:
        """Raise if the saga is empty, is not committed, or has steps that are not complete."""
        if self.nested.steps and not self.nested.committed:
            raise SagaNotCommittedException(
                f"saga {self.nested.name!r} is a step of another one and is not committed: call "
                f"its commit() first"
            )
        self.nested.validate()

    def __repr__(self) -> str:
        inner = " -> ".join(map(repr, self.nested.steps)) if self.nested.committed else "..."
        return f"{self.name}({inner})"


class ParallelSagaStep(SagaStep):
    """Branches that are run at the same time; the saga continues when all of them have ended.

    Args:
        branches: tasks, functions, steps such as ``LocalSagaStep(task, compensation)``, and
            committed sagas.
        name: its name; by default ``parallel``.
        compensate: ``"reverse"``: the compensations of the branches run one after the other, in
            reverse order of completion. ``"parallel"``: those of different branches may run at the
            same time.
    """

    def __init__(
        self,
        *branches: Target | SagaStep | StepOwner,
        name: str | None = None,
        compensate: Order = "reverse",
    ) -> None:
        super().__init__()
        if not branches:
            raise EmptySagaStepException(
                "a parallel step has no branches: give it tasks, functions, steps or sagas"
            )
        _refuse_one_list(branches)
        self._branches = tuple(map(branch_of, branches))
        self.options = owned({"name": name, "compensate": _order(compensate)})

    @property
    def name(self) -> str:
        """The given name, or ``parallel``."""
        return str(self.options["name"] or "parallel")

    @property
    def children(self) -> Sequence[SagaStep]:
        """The branches."""
        return self._branches

    def part(self, place: int) -> str:
        """A branch is called by its number."""
        return f"branch number {place + 1}"

    def validate(self) -> None:
        """Raise if a branch is not complete."""
        for branch in self._branches:
            branch.validate()

    def __repr__(self) -> str:
        return f"{self.name}({' | '.join(map(repr, self._branches))})"


class ForEachSagaStep(SagaStep):
    """A body that is run for each item of a list in the context.

    Args:
        over: the key of the list, or a path ``("order", "lines")``.
        body: a task, a function, a step or a committed saga.
        as_: the key under which the body sees its item.
        parallel: all items at the same time; otherwise one after the other.
        returns: the key for the list of what the items wrote under that key, in their order.
        name: its name; by default ``for_each``.
        compensate: as for :class:`ParallelSagaStep`, of items.
    """

    def __init__(
        self,
        over: str | tuple[str | int, ...],
        body: Target | SagaStep | StepOwner,
        *,
        as_: str = "item",
        parallel: bool = False,
        returns: str | None = None,
        name: str | None = None,
        compensate: Order = "reverse",
    ) -> None:
        super().__init__()
        self.over = _path(over)
        self.body = branch_of(body)
        for option, key in (("as_", as_), ("returns", returns)):
            if (option, key) != ("returns", None) and not (isinstance(key, str) and key):
                raise DefinitionError(f"for_each: {option}: expected a context key, found {key!r}")
        if parallel not in (True, False):
            raise DefinitionError(f"for_each: parallel: expected True or False, found {parallel!r}")
        self.item, self.parallel, self.returns = as_, bool(parallel), returns
        self.options = owned({"name": name, "compensate": _order(compensate)})

    @property
    def name(self) -> str:
        """The given name, or ``for_each``."""
        return str(self.options["name"] or "for_each")

    @property
    def children(self) -> Sequence[SagaStep]:
        """The body."""
        return (self.body,)

    def part(self, place: int) -> str:
        """The only one is the body."""
        return "the body of the loop"

    def validate(self) -> None:
        """Raise if the body is not complete."""
        self.body.validate()

    def __repr__(self) -> str:
        return f"{self.name}({self.body!r})"


def is_saga(target: object) -> bool:
    """Whether it is a saga. It reads only the type: a lazy task stays lazy."""
    return hasattr(type(target), "local_step") and not issubclass(type(target), SagaStep)


def branch_of(target: Any) -> SagaStep:
    """Return the step that a branch, a body or an alternative is.

    Raises:
        DefinitionError: it cannot be a step; several steps are a saga.
    """
    if issubclass(type(target), SagaStep):
        return target  # type: ignore[no-any-return]
    return NestedSagaStep(target) if is_saga(target) else LocalSagaStep(target)


def _refuse_one_list(branches: tuple[Any, ...]) -> None:
    """Refuse a list in the place of the branches themselves."""
    if len(branches) == 1 and isinstance(branches[0], (list, tuple, set, Iterator)):
        raise DefinitionError(
            f"parallel_step: expected the branches one by one, parallel_step(a, b) or "
            f"parallel_step(*branches), found a {type(branches[0]).__name__} of them"
        )


def _order(given: Any) -> str:
    if given not in ("reverse", "parallel"):
        raise DefinitionError(f"compensate: expected 'reverse' or 'parallel', found {given!r}")
    return str(given)


def _path(given: Any) -> tuple[str | int, ...]:
    path = (given,) if isinstance(given, str) else given
    keys = isinstance(path, tuple) and all(type(key) in (str, int) for key in path)
    if not (keys and path and isinstance(path[0], str) and path[0]):
        raise DefinitionError(
            f"for_each: expected the context key of a list, or a path such as ('order', 'lines'), "
            f"found {given!r}"
        )
    return tuple(path)


def _keys(option: str, given: Any) -> Mapping[str, str] | None:
    if given is None:
        return None
    pairs: Any = {}
    if isinstance(given, Mapping):
        pairs = given.items()
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        pairs = [(key, key) for key in given]
    if pairs == {} or not all(isinstance(key, str) and key for pair in pairs for key in pair):
        raise DefinitionError(
            f"nested_step: {option}: expected a list of context keys or a mapping of them, found "
            f"{given!r}"
        )
    return dict(pairs)
