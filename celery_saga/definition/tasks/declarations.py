"""How a task was declared, read before Celery has made the task.

``@app.task`` and ``@shared_task`` return a proxy, and Celery makes the task on the first access to
the proxy. While modules are imported that must not happen: it finalizes the app, and gives the task
the settings that are known so far. The proxy holds the function and the options of the decorator.
How it holds them is an internal of Celery. If they are not found, nothing is known, and the checks
of ``commit()`` run when the plan is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery, Task, _state
from celery.local import PromiseProxy, Proxy

from celery_saga.definition.tasks.layers import layers, register_resolver
from celery_saga.definition.tasks.signatures import parameters_of, unknown

#: Where the hook's ``__call__`` keeps the one that the task's class would have without it.
INNER = "_celery_saga_inner"

#: Where the hook keeps the ``run`` of a task's class at binding: a test may put a mock there.
RUN = "_celery_saga_run"


@dataclass(frozen=True)
class Declaration:
    """A task as it was declared.

    Args:
        function: what runs; for a bound task that is not made yet, it takes the task first.
        bind: whether its first parameter is the task, and not one that a caller passes.
        options: the options of the decorator, as far as they are known; empty for a made task.
        task: the task, if it is made.
        app: the app that it belongs to; ``None``: not known.
    """

    function: Callable[..., Any]
    bind: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    task: Task[Any, Any] | None = None
    app: Celery | None = None

    def option(self, name: str) -> Any:
        """The value of an option; ``None``: it is not known, or the configuration decides."""
        if self.task is not None:
            return getattr(self.task, name, None)
        found = self.options.get(name)
        return getattr(self.options.get("base"), name, None) if found is None else found


def declaration_of(target: Any) -> Declaration | None:
    """Return how a task was declared, without making it; ``None``: not known, or not a task."""
    kind = type(target)
    if kind is Proxy:
        return _shared(target)
    if kind is PromiseProxy and not target.__evaluated__():
        return _lazy(target)
    if isinstance(target, Task):
        return Declaration(function_of(target), task=target, app=target.app)
    return None


def drops_result(declared: Declaration) -> bool:
    """Whether the task itself sets ``ignore_result=True``, so that its result is not used.

    The app's setting applies to all tasks, and says nothing about this one.
    """
    said = declared.option("ignore_result") is True
    if not said or declared.task is None:
        return said
    return not declared.task.app.conf.task_ignore_result  # Celery copies it to tasks without one


def function_of(task: Task[Any, Any]) -> Callable[..., Any]:
    """Return what a task runs, as its class says, or said when it was bound.

    The ``run`` of the task, or of the class, may be a test's mock, which has no parameters.
    Celery's check of arguments does not use it either.
    """
    cls = task.__class__
    found = run_in(cls)
    if found is None:
        return task.run  # set by its constructor
    if RUN in vars(cls) and unknown(parameters_of(found)):
        found = vars(cls)[RUN]
    get = getattr(type(found), "__get__", None)
    return found if get is None else get(found, task, cls)  # type: ignore[no-any-return]


def run_in(cls: type[Any]) -> Any:
    """Return the ``run`` of a class of tasks; ``None``: it has none."""
    for each in cls.__mro__:
        if each is not Task and "run" in vars(each):
            return vars(each).get("__wrapped__", vars(each)["run"])
    return None


def accepts(task: Task[Any, Any], names: Iterable[str]) -> bool:
    """Whether Celery's own check accepts these keyword arguments for a task.

    Celery has no check for a class with its own ``run``. Then the signature decides, unless the
    project's own ``__call__`` may pass more arguments.
    """
    if not task.typing:
        return True
    given = dict.fromkeys(names)
    check = getattr(task, "__header__", None)
    try:
        if check is not None:
            check(**given)
        elif not _has_own_call(task):
            inspect.signature(function_of(task), follow_wrapped=False).bind(**given)
    except TypeError:
        return False
    except ValueError:
        return True  # its signature cannot be read
    return True


def _has_own_call(task: Task[Any, Any]) -> bool:
    call: Any = inspect.getattr_static(task.__class__, "__call__")
    while hasattr(call, INNER):
        call = getattr(call, INNER)
    return getattr(call, "__module__", "") not in ("celery.app.task", "celery.app.trace")


def _lazy(target: Any) -> Declaration | None:
    try:
        (function,) = object.__getattribute__(target, "_Proxy__args")
        options = dict(object.__getattribute__(target, "_Proxy__kwargs"))
        app = object.__getattribute__(target, "_Proxy__local").__self__
    except (AttributeError, TypeError, ValueError):
        return None
    return _declaration(function, options, app)


def _shared(target: Any) -> Declaration | None:
    """The proxy of ``@shared_task`` asks the current app for the task, in a closure."""
    try:
        local = object.__getattribute__(target, "_Proxy__local")
        names = dict(zip(local.__code__.co_freevars, local.__closure__, strict=True))
        function, name = names["fun"].cell_contents, names["name"].cell_contents
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return _declaration(function, _options_of_shared(function, name))


def _options_of_shared(function: Any, name: Any) -> Mapping[str, Any]:
    """Return the options of ``@shared_task``, which it keeps for apps not finalized yet."""
    for cons in getattr(_state, "_on_app_finalizers", ()):
        try:
            names = dict(zip(cons.__code__.co_freevars, cons.__closure__ or (), strict=True))
            options = dict(names["options"].cell_contents)
            if names["fun"].cell_contents is function and options.get("name") == name:
                return options
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return {}


def _declaration(
    function: Any, options: Mapping[str, Any], app: Celery | None = None
) -> Declaration | None:
    if not callable(function):
        return None
    return Declaration(function, bool(options.get("bind")), options, app=app)


def same_task(target: Any, task: Task[Any, Any]) -> bool:
    """Whether ``target``, a task as it was declared, is ``task`` of a finalized app."""
    declared = declaration_of(target)
    if declared is None:
        return False
    if declared.task is not None and declared.task == task:
        return True
    name = declared.task.name if declared.task is not None else declared.options.get("name")
    function = declared.function
    if name is None:
        name = task.app.gen_task_name(function.__name__, function.__module__)
    return bool(name == task.name) and layers(function)[-1] is layers(task)[-1]


def _behind(target: Any) -> Iterable[Any] | None:
    """Return what is right behind a task, without making it; ``None``: it is not a task."""
    kind = type(target)
    if kind is PromiseProxy and target.__evaluated__():
        return (target._get_current_object(),)
    if kind in (Proxy, PromiseProxy):
        declared = declaration_of(target)
        return () if declared is None else (declared.function,)
    if isinstance(target, Task):
        # Its own ``run`` may be made by autoretry, or by a test.
        return (kind, vars(target).get("run"), inspect.getattr_static(kind, "run"))
    return None


register_resolver(_behind)
