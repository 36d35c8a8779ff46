"""A plan as plain data and back: the form in which checkpoints keep it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from celery_saga.core.plan.call import Call, Input
from celery_saga.core.plan.nodes import (
    Case,
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    PlanStep,
    RemoteStep,
    Sleep,
    Wait,
)

#: The kinds of nodes by their names in the data; a step has none, most nodes are steps.
_KINDS: dict[str, type[Any]] = {
    "remote": RemoteStep,
    "nested": NestedSaga,
    "parallel": Parallel,
    "choice": Choice,
    "for_each": ForEach,
    "wait": Wait,
    "sleep": Sleep,
    "commits": Commits,
}
_NO_DEFAULT = object()
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_dict(item: Any) -> Any:
    """Dataclasses as dicts without their default values, tuples as lists."""
    if isinstance(item, Input) and item == Input(item.param, (item.param,)):
        return item.param  # what most of them are: a key of the parameter's name
    if is_dataclass(item) and not isinstance(item, type):
        out = {"kind": _NAMES[type(item)]} if type(item) in _NAMES else {}
        for spec in fields(item):
            value = getattr(item, spec.name)
            default = getattr(type(item), spec.name, _NO_DEFAULT)
            if spec.name == "options":
                value, default = dict(sorted(value.items())), {}
            if value != default:
                # A constant is the user's own value: a tuple in it is refused, not made a list.
                out[spec.name] = value if spec.name == "const" else to_dict(value)
        return out
    return [to_dict(part) for part in item] if isinstance(item, tuple) else item


def shown(node: Node) -> str:
    """A node in one line: its name, and what it does."""
    if isinstance(node, PlanStep):
        arrow = f" <-> {node.compensation.task}" if node.compensation else ""
        what = "request of " if isinstance(node, RemoteStep) else ""
        return f"{node.name}: {what}{node.action.task}{arrow}{' (pivot)' if node.pivot else ''}"
    if isinstance(node, Choice):
        rest = "" if node.otherwise is None else ", else the last"
        return f"{node.name}: by {', '.join(each.condition.task for each in node.cases)}{rest}"
    if isinstance(node, ForEach):
        keys = "".join(f"[{key!r}]" for key in node.over)
        way = "all at once" if node.parallel else "one after the other"
        return f"{node.name}: for each {node.item!r} in context{keys}, {way}"
    if isinstance(node, Parallel | Commits):
        return f"{node.name}: all at once"
    if isinstance(node, Wait):
        limit = "" if node.timeout is None else f", {node.timeout:g} s at most"
        return f"{node.name}: for the signal {node.signal!r}{limit}"
    if isinstance(node, Sleep):
        return f"{node.name}: for {node.seconds:g} s"
    return f"{node.name}: one after the other"


def node_from_dict(data: dict[str, Any]) -> Node:
    """The reverse of :func:`to_dict` for a node."""
    read: dict[str, Callable[[Any], Any]] = {
        "action": _call_from_dict,
        "compensation": _call_from_dict,
        "commit": _call_from_dict,
        "condition": _call_from_dict,
        "on_success": _call_from_dict,
        "on_error": _call_from_dict,
        "node": node_from_dict,
        "otherwise": node_from_dict,
        "on_timeout": node_from_dict,
        "body": node_from_dict,
        "steps": _nodes_from,
        "branches": _nodes_from,
        "cases": lambda cases: tuple(Case(**_read(case, read)) for case in cases),
        "over": tuple,
        "compensate_on_failure": lambda found: tuple(found) if isinstance(found, list) else found,
    }
    kind = _KINDS[data["kind"]] if "kind" in data else PlanStep
    made: Node = kind(**_read({key: data[key] for key in data if key != "kind"}, read))
    return made


def _read(data: dict[str, Any], read: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    return {key: read[key](value) if key in read else value for key, value in data.items()}


def _nodes_from(data: list[dict[str, Any]]) -> tuple[Node, ...]:
    return tuple(map(node_from_dict, data))


def _call_from_dict(data: dict[str, Any]) -> Call:
    inputs = tuple(map(_input_from, data.pop("inputs", ())))
    return Call(inputs=inputs, **data)


def _input_from(data: str | dict[str, Any]) -> Input:
    if isinstance(data, str):
        return Input(data, (data,))
    return Input(**{**data, "path": tuple(data.get("path", ()))})
