"""The saga builder. A committed saga is immutable data, and building it runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from celery_saga.definition import functions
from celery_saga.definition.binding import check_function
from celery_saga.definition.registry import Registry
from celery_saga.definition.steps import LocalSagaStep, SagaStep
from celery_saga.errors import (
    AlreadyCommittedException,
    DefinitionError,
    EmptySagaException,
    SagaNotCommittedException,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_saga.definition.operations import LocalOptions
    from celery_saga.definition.steps import Step

Self = TypeVar("Self", bound="SagaDefinition")

#: All committed sagas that have a name.
SAGAS: Registry[SagaDefinition] = Registry()

#: The name of a saga without a given name.
ANONYMOUS = "saga"


class SagaDefinition:
    """The steps of a saga and the order in which they run.

    Args:
        name: the saga's name; it is shown everywhere, and is part of the names of lambdas used as
            steps.
        steps: tasks, functions or steps to begin with; those with ``@saga_step`` bring their
            compensation along.
        app: the Celery app that runs it; by default the one app that its tasks share.
        on_compensation_failure: what follows when a compensation has failed for good:
            ``"continue"``: the others are run, and the saga is stuck at the end; ``"stop"``: it is
            stuck at once, and the others wait for the operator.

    Raises:
        DefinitionError: the name is not a text, or a step or an option is defined incorrectly.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        steps: Iterable[Step] | None = None,
        app: Any = None,
        on_compensation_failure: Literal["continue", "stop"] = "continue",
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise DefinitionError(f"a saga's name: expected a text, found {name!r}")
        if on_compensation_failure not in ("continue", "stop"):
            raise DefinitionError(
                f"on_compensation_failure: expected 'continue' or 'stop', "
                f"found {on_compensation_failure!r}"
            )
        self._name = name
        self.on_compensation_failure = on_compensation_failure
        self._app = app
        self._steps: list[SagaStep] = []
        self._callbacks: dict[str, list[Any]] = {}
        self._committed = False
        #: The keys of the warnings that were given.
        self.warned: set[object] = set()
        for step in _listed(steps):
            self.local_step(step)

    @property
    def name(self) -> str:
        """The saga's name."""
        return self._name or ANONYMOUS

    @property
    def steps(self) -> tuple[SagaStep, ...]:
        """The steps, in order."""
        return tuple(self._steps)

    @property
    def committed(self) -> bool:
        """Whether the saga is complete and immutable."""
        return self._committed

    def local_step(
        self, step: Step | None = None, **options: Unpack[LocalOptions]
    ) -> LocalSagaStep:
        """Add a step and return it.

        Args:
            step: a Celery task, a task's name, a function, a :class:`SagaOperation`, or a
                :class:`LocalSagaStep`; nothing: give it with ``.on_execute()``.
            options: ``name``; ``inputs`` (``{"parameter": "key"}``, a path ``("key", "inside")``,
                ``Const(value)``, or a complete list of parameters); ``returns`` (a key for the
                result, or False to drop it); ``parameters`` (constants); ``compensation``;
                ``context`` (it takes the whole context); ``pivot`` (the point of no return);
                ``retriable`` with ``max_attempts``, ``retry_backoff``, ``retry_backoff_max`` (the
                engine retries it); ``on_lost`` (``"rerun"`` or ``"undo"``); ``read_only`` (it
                changes nothing and is run again when it is lost); ``compensate_on_failure``
                (True or exception classes); and Celery's message options such as ``queue``.
        """
        if self._committed:
            raise AlreadyCommittedException(f"saga {self.name!r} is committed: it cannot change")
        if issubclass(type(step), SagaStep):
            if not issubclass(type(step), LocalSagaStep):
                raise TypeError(f"expected a LocalSagaStep, found a {type(step).__name__}")
            if options:
                raise DefinitionError(
                    f"a step object brings its own options: pass {', '.join(sorted(options))} to "
                    f"its class"
                )
            added: Any = step
        else:
            target: Any = step
            added = LocalSagaStep(target, **options)
        added.attach(self)
        self._steps.append(added)
        return added  # type: ignore[no-any-return]

    def on_completed(self: Self, task: Any) -> Self:
        """Call a task with the final context of each run that completes; returns the saga.

        Like a ``link`` callback of Celery, it is called at least once, when the end is stored.

        Args:
            task: a signature, a task, a saga or a task's name.

        Raises:
            AlreadyCommittedException: the saga is committed.
            DefinitionError: ``task`` is not one of these.
        """
        return self._call_back("COMPLETED", task)

    def on_compensated(self: Self, task: Any) -> Self:
        """Call a task with the id of each run that was compensated, as errbacks are called.

        As with Celery's ``link_error``, a task with several parameters gets request, error and
        traceback.
        """
        return self._call_back("COMPENSATED", task)

    def on_stuck(self: Self, task: Any) -> Self:
        """Call a task with the id of each run that gets stuck; as ``link_error``."""
        return self._call_back("STUCK", task)

    def _call_back(self: Self, status: str, task: Any) -> Self:
        verb = f"on_{status.lower()}"
        if self._committed:
            raise AlreadyCommittedException(
                f"saga {self.name!r} is committed: call {verb}() before commit()"
            )
        named = isinstance(task, str) and task.strip()
        if isinstance(task, type) or not (named or callable(getattr(task, "apply_async", None))):
            raise DefinitionError(
                f"saga {self.name!r}: {verb}: expected a task, its name or a signature such as "
                f"task.s(), found {task!r}"
            )
        self._callbacks.setdefault(status, []).append(task)
        return self

    @property
    def callbacks(self) -> Mapping[str, Sequence[Any]]:
        """The callbacks of each final status."""
        return self._callbacks

    def commit(self: Self) -> Self:
        """Make the saga immutable and register its functions; returns the saga.

        Raises:
            AlreadyCommittedException: it is committed.
            DefinitionError: two pivots, a compensation on or after the pivot, two steps of one
                name, ...
        """
        if self._committed:
            raise AlreadyCommittedException(f"saga {self.name!r} is committed already")
        steps = [step for step in self._steps if isinstance(step, LocalSagaStep)]
        check_steps(self.name, steps)
        importing = functions.importing()
        if importing:
            self._register(steps)
        self._committed = True
        if self._name is not None:
            SAGAS.add(self._name, self, importing)
        return self

    def _register(self, steps: list[LocalSagaStep]) -> None:
        for index, step in enumerate(steps):
            for role, operation in (("action", step.action), ("compensation", step.compensation)):
                if operation is None or not functions.is_plain(operation.callback):
                    continue
                name = self.callable_name(operation.callback, index, role)
                if name is not None:
                    functions.register(name, operation.callback)

    def callable_name(self, function: Any, index: int, role: str) -> str | None:
        """The wire name of a function used as ``role`` of step ``index``; ``None``: none."""
        step = self._steps[index]
        given = step.options.get("name") if isinstance(step, LocalSagaStep) else None
        fallback = f"{self._name}.{given or index}.{role}" if self._name else None
        return functions.wire_name(function, fallback)

    def validate(self) -> None:
        """Raise if the saga cannot be started.

        Raises:
            EmptySagaException: it has no steps.
            SagaNotCommittedException: ``commit()`` is missing.
            SagaStepException: a step is not complete.
        """
        if not self._steps:
            raise EmptySagaException(f"saga {self.name!r} has no steps: add one with local_step()")
        for step in self._steps:
            step.validate()
        if not self._committed:
            raise SagaNotCommittedException(f"saga {self.name!r} is not committed: call commit()")

    def __repr__(self) -> str:
        steps = " -> ".join(map(repr, self._steps)) or "(no steps)"
        draft = "" if self._committed else " (not committed)"
        return f"<Saga {self.name}: {steps}{draft}>"


def _listed(steps: Any) -> list[Any]:
    try:
        if issubclass(type(steps), str):
            raise TypeError
        return [] if steps is None else list(steps)
    except TypeError:
        raise DefinitionError(
            f"steps: expected a list of tasks, functions or steps, found {steps!r}"
        ) from None


def check_steps(saga: str, steps: list[LocalSagaStep]) -> None:
    """Refuse steps that cannot be combined.

    Raises:
        DefinitionError: two pivots, a compensation on or after the pivot, two equal names, ...
    """
    _check_names(saga, steps)
    _check_pivot(saga, steps)
    for index, step in enumerate(steps):
        _check_options(f"saga {saga!r}: step number {index + 1}", step)
    _check_retries(saga, steps)


def _check_names(saga: str, steps: list[LocalSagaStep]) -> None:
    seen: set[str] = set()
    for step in steps:
        name = step.options.get("name")
        if name is None:
            continue
        if not isinstance(name, str) or not name or "/" in name:
            raise DefinitionError(
                f"saga {saga!r}: a step's name: expected a text without '/', found {name!r}"
            )
        if name in seen:
            raise DefinitionError(f"saga {saga!r}: two steps are named {name!r}")
        seen.add(name)


def _check_pivot(saga: str, steps: list[LocalSagaStep]) -> None:
    pivots = [index for index, step in enumerate(steps) if step.options.get("pivot")]
    if len(pivots) > 1:
        raise DefinitionError(
            f"saga {saga!r}: expected one pivot at most, found steps number "
            f"{' and '.join(str(index + 1) for index in pivots)}"
        )
    for index in range(pivots[0], len(steps)) if pivots else ():
        where = f"saga {saga!r}: step number {index + 1}"
        if steps[index].compensation is not None:
            raise DefinitionError(
                f"{where} has a compensation and is on or after the pivot, from which there is "
                f"no rollback: remove one of the two"
            )
        if steps[index].options.get("on_lost") == "undo":
            raise DefinitionError(
                f"{where} is on or after the pivot, where a step is always run again: expected "
                f"no on_lost= or 'rerun', found 'undo'"
            )


def _check_options(where: str, step: LocalSagaStep) -> None:
    for operation, role in ((step.action, ""), (step.compensation, ", its compensation")):
        if operation is not None and functions.is_plain(operation.callback):
            given = operation.options.get("context")
            check_function(f"{where}{role}", operation.callback, given)
        limit = operation.options.get("max_attempts") if operation else None
        if limit is not None and (type(limit) is not int or limit < 1):
            raise DefinitionError(f"{where}: max_attempts: expected 1 or more, found {limit!r}")
    if step.options.get("read_only"):
        _check_read_only(where, step)
    if step.options.get("compensate_on_failure") and step.compensation is None:
        raise DefinitionError(
            f"{where} has compensate_on_failure= and no compensation: give it one with "
            f".on_failure()"
        )


def _check_read_only(where: str, step: LocalSagaStep) -> None:
    if step.compensation is not None:
        raise DefinitionError(
            f"{where} has a compensation and read_only=True, which says that there is nothing to "
            f"compensate: remove one of the two"
        )
    if step.options.get("on_lost") == "undo":
        raise DefinitionError(
            f"{where} has read_only=True, and such a step is always run again: expected no "
            f"on_lost= or 'rerun', found 'undo'"
        )


def _check_retries(saga: str, steps: list[LocalSagaStep]) -> None:
    pivot = next((i for i, step in enumerate(steps) if step.options.get("pivot")), len(steps))
    for index, step in enumerate(steps[: pivot + 1]):
        limit = step.action.options.get("max_attempts") if step.action else None
        retriable = step.options.get("retriable")
        where = f"saga {saga!r}: step number {index + 1}"
        if retriable and limit is None:
            raise DefinitionError(
                f"{where} is retriable and is not after the pivot: say how often with max_attempts="
            )
        given = step.action.options if step.action else {}
        for option in ("max_attempts", "retry_backoff", "retry_backoff_max"):
            if given.get(option) is not None and not retriable:
                raise DefinitionError(f"{where} has {option}= without retriable=True")
