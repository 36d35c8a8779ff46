"""The saga builder. A committed saga is immutable data, and building it runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from celery_saga.definition import functions
from celery_saga.definition.checks import check_steps
from celery_saga.definition.contexts import ContextModel, model_of
from celery_saga.definition.operations import (
    ForEachOptions,
    NestedOptions,
    ParallelOptions,
    WaitOptions,
)
from celery_saga.definition.options import refuse_unknown
from celery_saga.definition.registry import Registry
from celery_saga.definition.steps import (
    ConditionalSagaStep,
    ForEachSagaStep,
    LocalSagaStep,
    NestedSagaStep,
    ParallelSagaStep,
    RemoteSagaStep,
    SagaStep,
    SleepSagaStep,
    WaitSagaStep,
)
from celery_saga.definition.steps.tree import check_nesting, located
from celery_saga.definition.steps.waits import shared_signals
from celery_saga.errors import (
    AlreadyCommittedException,
    DefinitionError,
    EmptySagaException,
    SagaNotCommittedException,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_saga.definition.operations import LocalOptions, RemoteOptions
    from celery_saga.definition.steps import Step, StepOwner

Self = TypeVar("Self", bound="SagaDefinition")
Added = TypeVar("Added", bound=SagaStep)

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
        context: what its context holds: a dataclass, or a model of pydantic 2. It is validated at
            the start, and after each step for what the step writes.

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
        context: Any = None,
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name.strip()):
            hint = "; its steps are given with steps=" if isinstance(name, (list, tuple)) else ""
            raise DefinitionError(f"a saga's name: expected a text, found {name!r}{hint}")
        if on_compensation_failure not in ("continue", "stop"):
            raise DefinitionError(
                f"on_compensation_failure: expected 'continue' or 'stop', "
                f"found {on_compensation_failure!r}"
            )
        self._name = name
        self.on_compensation_failure = on_compensation_failure
        self._app = app
        self._model = model_of(name or ANONYMOUS, context)
        self._steps: list[SagaStep] = []
        self._callbacks: dict[str, list[Any]] = {}
        self._committed = False
        #: The keys of the warnings that were given.
        self.warned: set[object] = set()
        for step in _listed(steps):
            if issubclass(type(step), SagaStep):
                self._add(step)
            else:
                self.local_step(step)

    @property
    def name(self) -> str:
        """The saga's name."""
        return self._name or ANONYMOUS

    @property
    def own_name(self) -> str | None:
        """The name that it was given."""
        return self._name

    @property
    def model(self) -> ContextModel | None:
        """What its context holds, if it says so."""
        return self._model

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
                engine retries it); ``on_lost`` (``"rerun"`` or ``"compensate"``); ``read_only`` (it
                changes nothing and is run again when it is lost); ``compensate_on_failure``
                (True or exception classes); and Celery's message options such as ``queue``.
        """
        self._check_open()
        target: Any = step
        if not issubclass(type(target), SagaStep):
            return self._add(LocalSagaStep(target, **options))
        if issubclass(type(target), RemoteSagaStep):
            raise TypeError("expected a LocalSagaStep, found a RemoteSagaStep: use remote_step()")
        return self._add_object(target, LocalSagaStep, options)

    def _add_object(self, step: Any, kind: type[Added], options: Mapping[str, Any]) -> Added:
        if not issubclass(type(step), kind):
            raise TypeError(f"expected a {kind.__name__}, found a {type(step).__name__}")
        if options:
            raise DefinitionError(
                f"a step object brings its own options: pass {', '.join(sorted(options))} to "
                f"its class"
            )
        added: Added = step
        return self._add(added)

    def remote_step(
        self, step: Step | None = None, **options: Unpack[RemoteOptions]
    ) -> RemoteSagaStep:
        """Add a step of another service and return it.

        Its request is sent to a Celery task, with or without this library, and its reply awaited;
        no worker is occupied meanwhile.

        Args:
            step: what makes its request: a function or task that returns a
                :class:`SagaRequest`, or a :class:`RemoteSagaStep`; nothing: ``.on_execute()``.
            options: ``name``; ``timeout`` (seconds until a request without a reply has failed);
                ``read_only`` (the request changes nothing at the other service); ``pivot``,
                ``retriable``, ``on_exhausted`` and how its own tasks are called, as for
                :meth:`local_step`.
        """
        self._check_open()
        target: Any = step
        if not issubclass(type(target), SagaStep):
            return self._add(RemoteSagaStep(target, **options))
        return self._add_object(target, RemoteSagaStep, options)

    def parallel_step(
        self, *branches: Step | StepOwner, **options: Unpack[ParallelOptions]
    ) -> ParallelSagaStep:
        """Add branches that run at the same time; the saga continues when all of them have ended.

        Args:
            branches: tasks, functions, ``LocalSagaStep(task, compensation, ...)``, committed sagas.
            options: ``name``; ``compensate``: ``"reverse"``, one compensation after the other, or
                ``"parallel"``, those of different branches at the same time.

        Raises:
            DefinitionError: no branch is given, or one cannot be a step.
        """
        self._check_open()
        refuse_unknown("parallel_step", options, ParallelOptions.__annotations__)
        return self._add(ParallelSagaStep(*branches, **options))

    def conditional_step(self, *, name: str | None = None) -> ConditionalSagaStep:
        """Add a choice: give it alternatives with ``.if_then()`` and ``.else_then()``."""
        self._check_open()
        return self._add(ConditionalSagaStep(name=name))

    def for_each(
        self,
        over: str | tuple[str | int, ...],
        body: Step | StepOwner,
        **options: Unpack[ForEachOptions],
    ) -> ForEachSagaStep:
        """Add a loop over a list in the context; the list is read once, when the loop begins.

        Args:
            over: the context key of the list, or a path such as ``("order", "lines")``.
            body: a task, a function, a step or a committed saga, which is run for each item.
            options: ``as_`` (the key of the item for the body, by default ``item``);
                ``parallel=True`` (all items at the same time); ``returns`` (the key for the list
                of the results); ``name``; ``compensate`` as for :meth:`parallel_step`.

        Raises:
            DefinitionError: an argument is not valid.
        """
        self._check_open()
        refuse_unknown("for_each", options, ForEachOptions.__annotations__)
        return self._add(ForEachSagaStep(over, body, **options))

    def nested_step(self, saga: StepOwner, **options: Unpack[NestedOptions]) -> NestedSagaStep:
        """Add a committed saga as a step: its steps are run here, as a part of this saga.

        Args:
            saga: the saga.
            options: ``name``; ``inputs``, the only keys of the context that its steps see: a list,
                or ``{"inside": "outside"}``; ``returns``, the only keys that the context gets
                back: a list, or ``{"outside": "inside"}``.

        Raises:
            DefinitionError: it is not a saga, or an option is not valid.
        """
        self._check_open()
        refuse_unknown("nested_step", options, NestedOptions.__annotations__)
        return self._add(NestedSagaStep(saga, **options))

    def wait_for(
        self,
        signal: str,
        timeout: float | timedelta | None = None,
        on_timeout: Step | StepOwner | None = None,
        **options: Unpack[WaitOptions],
    ) -> WaitSagaStep:
        """Add a wait for a signal, which ``SagaManager.signal()`` sends before it or meanwhile.

        Args:
            signal: the signal's name.
            timeout: seconds, or a timedelta; then the step fails, or ``on_timeout`` is run.
            on_timeout: a committed saga, a step, a task or a function.
            options: ``returns``, the context key of the signal's payload, by default the signal's
                name (``False``: the payload is dropped); ``name``, by default the signal's.

        Raises:
            DefinitionError: an argument is not valid.
        """
        self._check_open()
        refuse_unknown("wait_for", options, WaitOptions.__annotations__)
        return self._add(WaitSagaStep(signal, timeout, on_timeout, **options))

    def sleep_step(self, seconds: float | timedelta, *, name: str | None = None) -> SleepSagaStep:
        """Add a wait for a time, counted from the moment at which the saga comes to it.

        Raises:
            DefinitionError: ``seconds`` is neither a number above 0 nor a timedelta.
        """
        self._check_open()
        return self._add(SleepSagaStep(seconds, name=name))

    def _check_open(self) -> None:
        if self._committed:
            raise AlreadyCommittedException(f"saga {self.name!r} is committed: it cannot change")

    def _add(self, step: Added) -> Added:
        step.attach(self)
        self._steps.append(step)
        return step

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
        check_nesting(self)
        shared_signals(self)
        check_steps(self.name, list(located(self)))
        importing = functions.importing()
        if importing:
            self._register()
        self._committed = True
        if self._name is not None:
            SAGAS.add(self._name, self, importing)
        return self

    def _register(self) -> None:
        for found in located(self):
            for role, operation in found.step.operations():
                if functions.is_plain(operation.callback):
                    name = found.callable_name(operation.callback, role)
                    if name is not None:
                        functions.register(name, operation.callback)

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
