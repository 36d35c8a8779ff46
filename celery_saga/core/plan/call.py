"""One task of a step, as plain data: its name, what it is called with, and how it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        model: of style ``context``: what the task gets instead of a SagaContext, as
            ``module.Class``.
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
    model: str = ""

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
