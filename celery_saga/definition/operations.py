"""What a step calls: a task or function, with its constants and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import CellType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, overload

from celery_saga.core.context.saga_context import SagaContext
from celery_saga.definition import functions
from celery_saga.definition.options import MESSAGE_OPTIONS, hint
from celery_saga.definition.source_lines import users_line, warn
from celery_saga.definition.tasks.layers import layers
from celery_saga.errors import DefinitionError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    #: What a step calls.
    Target: TypeAlias = Callable[..., Any] | str | "SagaOperation"

T = TypeVar("T", bound=Callable[..., Any])

_CALL_OPTIONS = frozenset(
    {"inputs", "returns", "context", "max_attempts", "retry_backoff", "retry_backoff_max"}
)
STEP_OPTIONS = frozenset(
    {"name", "pivot", "retriable", "on_lost", "on_exhausted", "read_only", "compensate_on_failure"}
)


# For type checkers; at run time only the names of the options are read.

#: In which order the compensations of branches run.
Order = Literal["reverse", "parallel"]


class CallOptions(TypedDict, total=False):
    """How a task is called: a step's, or a compensation's.

    Args:
        inputs: ``{"parameter": "key"}`` renames on top of the parameters' own names, a list is
            complete; a tuple of keys is a path, ``Const(value)`` a literal.
        returns: the context key of the result; ``False``: the result is dropped.
        context: whether the task takes the whole context.
        max_attempts: how often the engine runs it at most.
        retry_backoff: seconds before the engine's second attempt; they double.
        retry_backoff_max: the longest backoff, in seconds.
        queue, exchange, routing_key, priority, expires, compression: Celery's message options.
        time_limit, soft_time_limit: Celery's limits, in seconds.
    """

    inputs: Mapping[str, Any] | Sequence[str] | None
    returns: str | Literal[False] | None
    context: bool | None
    max_attempts: int | None
    retry_backoff: float | None
    retry_backoff_max: float | None
    queue: str
    exchange: str
    routing_key: str
    priority: int
    expires: float | datetime
    compression: str
    time_limit: float
    soft_time_limit: float


class StepOptions(CallOptions, total=False):
    """The options of a step.

    Args:
        name: the step's name; by default its task's.
        pivot: the point of no return.
        retriable: the engine retries it.
        on_lost: whether it is run again or compensated when its worker is lost; by default as
            ``acks_late`` says.
        on_exhausted: whether the saga is rolled back when its attempts are used up, or waits there
            for an operator.
        read_only: it changes nothing, and is run again when it is lost.
        compensate_on_failure: compensate it also when it failed: always, or for exceptions.
    """

    name: str | None
    pivot: bool | None
    retriable: bool | None
    on_lost: Literal["rerun", "compensate"] | None
    on_exhausted: Literal["compensate", "pause"] | None
    read_only: bool | None
    compensate_on_failure: bool | type[BaseException] | Sequence[type[BaseException]]


class PairedOptions(StepOptions, total=False):
    """The options of a step, with its compensation and its commit task."""

    compensation: Target | None
    on_commit: Target | None


class RemoteOptions(CallOptions, total=False):
    """The options of a remote step: see :meth:`Saga.remote_step`."""

    name: str | None
    timeout: float | timedelta | None
    parameters: Mapping[str, Any] | None
    pivot: bool | None
    retriable: bool | None
    on_exhausted: Literal["compensate", "pause"] | None
    read_only: bool | None


class LocalOptions(PairedOptions, total=False):
    """All options of a step, with the constants of its task."""

    parameters: Mapping[str, Any] | None


class ParallelOptions(TypedDict, total=False):
    """The options of a group of parallel branches: see :meth:`Saga.parallel_step`."""

    name: str | None
    compensate: Order


class ForEachOptions(TypedDict, total=False):
    """The options of a loop: see :meth:`Saga.for_each`."""

    as_: str
    parallel: bool
    returns: str | None
    name: str | None
    compensate: Order


class WaitOptions(TypedDict, total=False):
    """The options of a wait for a signal: see :meth:`Saga.wait_for`."""

    returns: str | Literal[False] | None
    name: str | None


class NestedOptions(TypedDict, total=False):
    """The options of a saga as a step of another one: see :meth:`Saga.nested_step`."""

    name: str | None
    inputs: Sequence[str] | Mapping[str, str] | None
    returns: Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True, init=False)
class SagaOperation:
    """A task or function with the constants that it is called with.

    Args:
        callback: a Celery task, a task's name, or a plain function.
        parameters: constants, passed as keyword arguments.
        options: how it is called: ``inputs``, ``returns``, ``context``, ``max_attempts``,
            ``retry_backoff``, ``retry_backoff_max`` and Celery's message options. For a plain
            function all others are constants too.

    Raises:
        DefinitionError: an option is unknown, or the constants have no names.
    """

    callback: Any
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]

    def __init__(
        self, callback: Any, parameters: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        _check(callback)
        known, _, extra = _sorted(callback, options, frozenset())
        object.__setattr__(self, "callback", callback)
        object.__setattr__(self, "parameters", owned({**_named(parameters), **extra}))
        object.__setattr__(self, "options", owned(known))

    @property
    def label(self) -> str:
        """A short name for logs. Reading it of a lazy task finalizes the app."""
        if isinstance(self.callback, str):
            return self.callback.rpartition(".")[2]
        name = getattr(self.callback, "name", None) or getattr(self.callback, "__name__", "")
        return str(name).rpartition(".")[2] or repr(self.callback)


#: What cannot be a step, and what to do instead.
_UNSUPPORTED = {
    "group": "make its tasks the branches of a parallel_step()",
    "chord": "make its tasks the branches of a parallel_step(), and its body the next step",
    "chain": "make each of its tasks a step of its own",
    "signature": "give the task itself, and its arguments with inputs= and parameters={...}",
    "saga": "add it with nested_step(), or start it with .delay() in a task",
    "tuple": "a step with its compensation is LocalSagaStep(task, compensation)",
    "list": "add each with local_step(); where one step is expected, several of them are a saga, "
    "Saga(steps=[...]).commit()",
}


def _check(target: Any) -> None:
    """Refuse objects that look like a step and are not supported as one.

    It reads only the type: a lazy task stays lazy.
    """
    kind = type(target)
    found = ""
    if issubclass(kind, dict) and "task" in target:
        found = str(target.get("subtask_type") or "signature")
        found = found if found in _UNSUPPORTED else "signature"
    elif hasattr(kind, "local_step"):
        found = "saga"
    elif issubclass(kind, (tuple, list)):
        found = "list" if issubclass(kind, list) else "tuple"
    if found:
        raise DefinitionError(f"a {found} as a step is not supported: {_UNSUPPORTED[found]}")
    if not callable(target) and not issubclass(kind, (str, SagaOperation)):
        sent = any(base.__name__ == "ResultBase" for base in kind.__mro__)
        raise DefinitionError(
            f"expected a Celery task, a task's name or a function, found {target!r}"
            + ("; give the task itself, without .delay()" if sent else "")
        )


def _sorted(
    target: Any, options: Mapping[str, Any], allowed: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split ``options``: of the call, of the step, and constants for a plain function."""
    known = _CALL_OPTIONS | MESSAGE_OPTIONS
    extra = {key: value for key, value in options.items() if key not in known | allowed}
    if extra and not functions.is_plain(target):
        shown = repr(target) if issubclass(type(target), str) else "a task"
        raise DefinitionError(
            f"unknown option {sorted(extra)[0]!r} for {shown}"
            f"{hint(sorted(extra)[0], known | allowed)}: expected one of "
            f"{sorted(known | allowed | {'parameters'})}; constants for the task go into "
            f"parameters={{...}}"
        )
    call = {key: value for key, value in options.items() if key in known}
    step = {key: value for key, value in options.items() if key in allowed}
    return call, step, extra


def _named(parameters: Any) -> Mapping[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise DefinitionError(
            f"parameters: expected a mapping of names to values, found {parameters!r}"
        )
    return parameters


def owned(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a read-only copy; a SagaContext copies the dicts and lists in it."""
    return MappingProxyType(dict(SagaContext(**values)))


#: What ``@saga_step`` declared, by the identity of the task or function. Nothing is written on the
#: task: a shared task has one object for every app, and touching a lazy one finalizes its app.
_declared: dict[int, tuple[SagaOperation, dict[str, Any]]] = {}


@overload
def saga_step(
    target: None = None,
    *,
    compensation: Target | None = None,
    on_commit: Target | None = None,
    parameters: Mapping[str, Any] | None = None,
    **options: Unpack[StepOptions],
) -> Callable[[T], T]: ...
@overload
def saga_step(
    target: T,
    *,
    compensation: Target | None = None,
    on_commit: Target | None = None,
    parameters: Mapping[str, Any] | None = None,
    **options: Unpack[StepOptions],
) -> T: ...
def saga_step(
    target: Any = None,
    *,
    compensation: Any = None,
    on_commit: Any = None,
    parameters: Any = None,
    **options: Any,
) -> Any:
    """Declare a step's options and compensation with its task, so that many sagas share them.

    Put it above ``@app.task`` or ``@shared_task``, or below, on the function itself; other
    decorators may be between if they use ``functools.wraps``. It returns its argument unchanged
    and does not touch it. A plain function is registered for the workers that import it. The
    options of the call apply too where the task is the compensation of another step.

    Args:
        compensation: the task or function that compensates it.
        on_commit: the task or function that is run for it when all steps of a saga have ended.
        parameters: constants for it.
        options: as for :meth:`Saga.local_step`.
    """

    later = {"compensation": compensation, "on_commit": on_commit}

    def declare(task: T) -> T:
        call, step, constants = _sorted(task, options, STEP_OPTIONS)
        operation = SagaOperation(task, {**_named(parameters), **constants}, **call)
        _declared[id(task)] = operation, {**later, **step}
        for one in filter(functions.is_plain, (task, *later.values())):
            if (name := functions.wire_name(one, None)) is not None:
                functions.register(name, one)
        return task

    return declare if target is None else declare(target)


def declared(target: Any) -> tuple[SagaOperation, dict[str, Any]]:
    """Return what ``@saga_step`` declared for ``target``: options of the call and of the step.

    A declaration on the task takes precedence over one on its function.
    """
    constants: dict[str, Any] = {}
    options: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for layer in reversed(layers(target)):
        declaration, step = _declared.get(id(layer), (None, {}))
        if declaration is not None and declaration.callback is layer:
            constants |= declaration.parameters
            options |= declaration.options
            about |= {key: value for key, value in step.items() if value is not None}
    return SagaOperation(target, constants, **options), about


def _warn_of_hidden(target: Any) -> None:
    """Warn of a declaration that is hidden by a decorator without ``functools.wraps``."""
    known = layers(target)
    for layer in filter(functions.is_plain, known):
        for cell in layer.__closure__ or ():
            held: Any = cell.cell_contents if cell != CellType() else None
            hidden = functions.is_plain(held) and not any(held is each for each in known)
            if hidden and declared(held)[1]:
                warn(
                    f"@saga_step above {held.__qualname__}() has no effect, because the decorator "
                    f"{layer.__qualname__}() over it lacks functools.wraps: give it that, or put "
                    f"@saga_step above @app.task",
                    users_line(),
                )


def declared_targets() -> Iterator[Any]:
    """All that ``@saga_step`` was applied to."""
    for declaration, _ in list(_declared.values()):
        yield declaration.callback


def operation_of(
    callback: Any,
    parameters: Mapping[str, Any] | None,
    options: dict[str, Any],
    allowed: frozenset[str] = frozenset(),
) -> tuple[SagaOperation, dict[str, Any]]:
    """Return the operation and the options of the step; a later option replaces an earlier one."""
    base = callback if issubclass(type(callback), SagaOperation) else SagaOperation(callback)
    declaration, about = declared(base.callback)
    if not about:
        _warn_of_hidden(base.callback)
    call, step, extra = _sorted(base.callback, options, allowed)
    constants = {**declaration.parameters, **base.parameters, **_named(parameters), **extra}
    made = SagaOperation(
        base.callback, constants, **{**declaration.options, **base.options, **call}
    )
    return made, {**about, **step}


def with_declared(
    operation: SagaOperation, found: Callable[[Any], Any]
) -> tuple[SagaOperation, dict[str, Any]]:
    """Add what is declared for the task that an operation names; returns the step's options too."""
    target = found(operation.callback)
    if target is None:
        return operation, {}
    declaration, about = declared(target)
    constants = {**declaration.parameters, **operation.parameters}
    options = {**declaration.options, **operation.options}
    return SagaOperation(operation.callback, constants, **options), about
