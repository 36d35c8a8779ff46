"""The plan of one run: what to do, as plain data.

A plan holds names and options and no callables. It is made when a saga starts, frozen in the
checkpoint, and is all that a worker needs to drive the run: a deploy that changes the definition
does not touch a saga that is on its way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from celery_saga.core.context.codec import JSON
from celery_saga.core.context.data import Values

Style = Literal["context", "inputs"]

_MISSING = object()


@dataclass(frozen=True)
class Input:
    """One argument of a task: a path into the context, or a constant.

    Args:
        param: the name of the task's parameter.
        path: keys from the context inwards; empty for a constant.
        const: the constant.
        required: whether the task can do without it (then its own default applies).
    """

    param: str
    path: tuple[str | int, ...] = ()
    const: Any = field(default=None, repr=False)  # it may be a secret, and no key says so
    required: bool = True

    def read(self, context: Mapping[str, Any]) -> Any:
        """The value in ``context``, or the private marker that says it is missing."""
        value: Any = context
        if not self.path:
            return self.const
        for key in self.path:
            if isinstance(value, (str, bytes)):  # a path leads into data, not to a letter
                return _MISSING
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return _MISSING
        return value

    def is_in(self, context: Mapping[str, Any]) -> bool:
        """Whether ``context`` has it; a plain key is not decoded for that."""
        if len(self.path) == 1:
            return self.path[0] in context
        return self.read(context) is not _MISSING


@dataclass(frozen=True)
class Call:
    """One task of a step, with all that is needed to send it.

    Args:
        task: the task's registered name.
        style: ``context`` hands over the whole context, ``inputs`` the mapped values.
        inputs: the mapping for style ``inputs``; constants only for style ``context``.
        returns: key for the result; ``False`` drops it; ``None`` merges a mapping.
        args: positional arguments, which only a retry of the task gives.
        options: Celery's message options, such as ``queue`` and ``priority``.
        rerun: whether the task is run again when its outcome is unknown.
        max_attempts: how often the engine runs it before its failure is final; 1 = once,
            ``None`` = without end.
        backoff: seconds before the second attempt; doubles with each further one.
        backoff_max: ceiling of that delay, in seconds.
    """

    task: str
    style: Style = "inputs"
    inputs: tuple[Input, ...] = ()
    returns: str | bool | None = None
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    rerun: bool = True
    max_attempts: int | None = 1
    backoff: float = 1.0
    backoff_max: float = 300.0

    @cached_property
    def alike(self) -> str:
        """Equal for calls whose messages differ in no more than their arguments and ids."""
        return json.dumps([self.task, self.style, sorted(self.options.items())], default=repr)

    @cached_property
    def origins(self) -> dict[str, str]:
        """For each parameter its own name and the keys of its path: where a mask word may stand.

        They are one text, so that showing a message's arguments costs one look at each.
        """
        return {item.param: "\0".join(map(str, (item.param, *item.path))) for item in self.inputs}

    def revised(self, by: Mapping[str, Any]) -> Call:
        """This call as a retry changed it: :func:`celery_saga.messaging.retries.revision_of`."""
        inputs, args = self.inputs, self.args
        if "kwargs" in by:
            given = JSON.loads(json.dumps(by["kwargs"]))
            inputs = tuple(Input(param, const=value) for param, value in given.items())
        if "args" in by:
            args = tuple(JSON.loads(json.dumps(by["args"])))
        options = {**self.options, **by.get("options", {})}
        return replace(self, inputs=inputs, args=args, options=options)

    def missing(self, context: Mapping[str, Any]) -> str | None:
        """The first required input which ``context`` lacks: its key, or its path as a tuple."""
        for item in self.inputs:
            if item.required and not item.is_in(context):
                return str(item.path[0] if len(item.path) == 1 else item.path)
        return None

    def texts(self, context: Values) -> dict[str, str]:
        """The keyword arguments to send, each as JSON text; what is missing is left to the task's
        defaults.
        """
        texts = {}
        for item in self.inputs:
            if len(item.path) == 1:
                if item.path[0] in context:
                    texts[item.param] = context.text(str(item.path[0]))
            elif (value := item.read(context)) is not _MISSING:
                texts[item.param] = context.codec.dumps(value, item.param)
        return texts

    def delay(self, attempts: int) -> float:
        """Seconds to wait after ``attempts`` failed attempts (exponential, capped)."""
        return min(self.backoff_max, self.backoff * 2.0 ** min(attempts - 1, 30))


@dataclass(frozen=True)
class PlanStep:
    """One step: its action, its compensation, and how failures of it are read.

    Args:
        read_only: the action leaves nothing behind, however it ends.
    """

    name: str
    action: Call
    compensation: Call | None = None
    pivot: bool = False
    compensate_on_failure: bool | tuple[str, ...] = False
    read_only: bool = False

    @cached_property
    def compensation_reads(self) -> frozenset[str]:
        """The context keys from which its compensation gets its inputs by name.

        One in context style gets the whole context instead, as it is then.
        """
        call = self.compensation
        if call is None or call.style == "context":
            return frozenset()
        return frozenset(str(item.path[0]) for item in call.inputs if item.path)


@dataclass(frozen=True)
class Plan:
    """All steps of one run, in order, with the limits that hold for it.

    Args:
        saga: the saga's name.
        steps: the steps.
        max_redeliveries: how often a step whose outcome is unknown is run again.
        unknown_task_grace: seconds for which a task that no worker knows is offered again.
    """

    saga: str
    steps: tuple[PlanStep, ...]
    max_redeliveries: int = 3
    unknown_task_grace: float = 600.0

    @cached_property
    def pivot(self) -> int | None:
        """Index of the pivot, if there is one."""
        return next((i for i, step in enumerate(self.steps) if step.pivot), None)

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """For each context key the steps whose compensations read it by name."""
        found: dict[str, tuple[int, ...]] = {}
        for index, step in enumerate(self.steps):
            for key in step.compensation_reads:
                found[key] = (*found.get(key, ()), index)
        return found

    @cached_property
    def text(self) -> str:
        """The plan as JSON; what makes two plans differ makes their texts differ."""
        return JSON.dumps(_to_dict(self), "plan")

    @cached_property
    def hash(self) -> str:
        """A short digest of :attr:`text`, sent along with every message."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def with_calls(self, changed: Callable[[Call], Call]) -> Plan:
        """This plan, with each of its calls changed."""
        steps = (
            replace(
                step,
                action=changed(step.action),
                compensation=changed(step.compensation) if step.compensation else None,
            )
            for step in self.steps
        )
        return replace(self, steps=tuple(steps))

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """The plan that :attr:`text` was made from."""
        data = JSON.loads(text)
        steps = tuple(_step_from_dict(step) for step in data.pop("steps"))
        return cls(steps=steps, **data)


def _to_dict(item: Any) -> Any:
    """Dataclasses as dicts without their default values, tuples as lists."""
    if isinstance(item, Input) and item == Input(item.param, (item.param,)):
        return item.param  # what most of them are: a key of the parameter's name
    if isinstance(item, (Plan, PlanStep, Call, Input)):
        plain = type(item).__new__(type(item))
        out = {}
        for spec in fields(item):
            value = getattr(item, spec.name)
            default = getattr(type(item), spec.name, plain)
            if spec.name == "options":
                value, default = dict(sorted(value.items())), {}
            if value != default:
                # A constant is the user's own value: a tuple in it is refused, not made a list.
                out[spec.name] = value if spec.name == "const" else _to_dict(value)
        return out
    return [_to_dict(part) for part in item] if isinstance(item, tuple) else item


def _step_from_dict(data: dict[str, Any]) -> PlanStep:
    compensation = data.get("compensation")
    classes = data.get("compensate_on_failure", False)
    return PlanStep(
        name=data["name"],
        action=_call_from_dict(data["action"]),
        compensation=_call_from_dict(compensation) if compensation else None,
        pivot=data.get("pivot", False),
        compensate_on_failure=tuple(classes) if isinstance(classes, list) else classes,
        read_only=data.get("read_only", False),
    )


def _call_from_dict(data: dict[str, Any]) -> Call:
    inputs = tuple(map(_input_from, data.pop("inputs", ())))
    return Call(inputs=inputs, **data)


def _input_from(data: str | dict[str, Any]) -> Input:
    if isinstance(data, str):
        return Input(data, (data,))
    return Input(**{**data, "path": tuple(data.get("path", ()))})
