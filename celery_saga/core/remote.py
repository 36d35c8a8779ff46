"""The request and the response of a remote step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import BuiltinMethodType, MethodType
from typing import Any
from uuid import UUID

from celery_saga.core.context.masking import masked


class SagaResponseStatus(IntEnum):
    """How a remote step ended; the numbers are those of the Minos framework."""

    #: The other service did what was requested.
    SUCCESS = 200
    #: The other service refused, for a business reason.
    ERROR = 400
    #: The other service failed, and its effect is unknown.
    SYSTEM_ERROR = 500

    @classmethod
    def _missing_(cls, value: object) -> SagaResponseStatus:
        allowed = ", ".join(f"{status.value} ({status.name})" for status in cls)
        raise ValueError(f"{value!r} is not a saga response status; use one of {allowed}")


class SagaRequest:
    """The request of a remote step to another service.

    Immutable. Two requests are equal if target and content are; the hash ignores the content,
    which may be a dict.

    Args:
        target: the receiver: a Celery task's name, or a name that the manager maps to one.
        content: any value that :mod:`celery_saga.core.context.codec` can store.

    Raises:
        TypeError: target is not a str, or content is (or holds) a bound method, as from
            ``context.items`` where ``context["items"]`` was meant.
        ValueError: target is empty.
    """

    __slots__ = ("_content", "_target")

    def __init__(self, target: str, content: Any = None) -> None:
        if not isinstance(target, str):
            raise TypeError(f"the target of a SagaRequest is a str, not {type(target).__name__}")
        if not target:
            raise ValueError("the target of a SagaRequest is empty; name a task")
        self._target = target
        self._content = _without_methods(content)

    @property
    def target(self) -> str:
        """The receiver of the request."""
        return self._target

    async def content(self, **kwargs: Any) -> Any:
        """The content. A coroutine, with ignored arguments, as in the Minos framework."""
        return self._content

    def to_dict(self) -> dict[str, Any]:
        """The request as data: ``{"target": str, "content": ...}``."""
        return {"target": self._target, "content": self._content}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SagaRequest:
        """Restore a request from :meth:`to_dict`."""
        return cls(data["target"], data["content"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SagaRequest):
            return NotImplemented
        return (self._target, self._content) == (other._target, other._content)

    def __hash__(self) -> int:
        return hash(self._target)

    def __repr__(self) -> str:
        return f"SagaRequest(target={self._target!r}, content={masked(self._content)!r})"


class SagaResponse:
    """The response to a :class:`SagaRequest`.

    Immutable. Two responses are equal if all four parts are; the hash ignores the content.

    Args:
        content: any value that :mod:`celery_saga.core.context.codec` can store.
        related_services: names of the services that took part.
        status: a :class:`SagaResponseStatus` or its number; by default SUCCESS.
        uuid: the id of the saga that waits for the response.

    Raises:
        TypeError: content is, or holds, a bound method.
        ValueError: status is not one of the three numbers.
    """

    __slots__ = ("_content", "_related_services", "_status", "_uuid")

    def __init__(
        self,
        content: Any = None,
        related_services: Iterable[str] | None = None,
        status: SagaResponseStatus | int | None = None,
        uuid: UUID | str | None = None,
    ) -> None:
        if isinstance(related_services, str):
            raise TypeError("related_services is a set of names, not one str")
        self._content = _without_methods(content)
        self._related_services = frozenset(related_services or ())
        self._status = SagaResponseStatus(SagaResponseStatus.SUCCESS if status is None else status)
        self._uuid = uuid

    def content(self, **kwargs: Any) -> Any:
        """The content; arguments are accepted as in the Minos framework, and ignored.

        A plain handler gets the value itself. An ``async def`` handler gets a response whose
        ``content()`` must be awaited. So both forms of Minos code work.
        """
        return self._content

    @property
    def ok(self) -> bool:
        """Whether the status is SUCCESS."""
        return self._status is SagaResponseStatus.SUCCESS

    @property
    def status(self) -> SagaResponseStatus:
        """How the remote step ended."""
        return self._status

    @property
    def related_services(self) -> frozenset[str]:
        """Names of the services that took part."""
        return self._related_services

    @property
    def uuid(self) -> UUID | str | None:
        """The id of the saga that waits for the response, as it was given."""
        return self._uuid

    def to_dict(self) -> dict[str, Any]:
        """The response as data for :meth:`celery_saga.core.context.codec.Codec.dumps`.

        ``{"content": ..., "related_services": [str, ...], "status": int, "uuid": ...}``
        """
        return {
            "content": self._content,
            "related_services": sorted(self._related_services),
            "status": self._status.value,
            "uuid": self._uuid,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SagaResponse:
        """Restore a response from :meth:`to_dict`."""
        return cls(data["content"], data["related_services"], data["status"], data["uuid"])

    def _for_async(self) -> SagaResponse:
        """The same response for an ``async def`` handler."""
        return _AwaitedResponse(*self._parts())

    def _parts(self) -> tuple[Any, ...]:
        return (self._content, self._related_services, self._status, self._uuid)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SagaResponse):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts()[1:])

    def __repr__(self) -> str:
        return (
            f"SagaResponse(content={masked(self._content)!r}, "
            f"related_services={sorted(self._related_services)!r}, "
            f"status={self._status.value}, uuid={self._uuid!r})"
        )


class _AwaitedResponse(SagaResponse):
    """A response whose content is awaited."""

    __slots__ = ()

    async def content(self, **kwargs: Any) -> Any:
        return self._content


def _without_methods(content: Any) -> Any:
    """Refuse a bound method, such as ``context.items``, as ``content`` or directly inside of it."""
    _refuse_method("content", content)
    if isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_method(f"content[{key!r}]", value)
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            _refuse_method(f"content[{index}]", value)
    return content


def _refuse_method(path: str, value: Any) -> None:
    # BuiltinMethodType is also the type of plain built-in functions such as len.
    if isinstance(value, (MethodType, BuiltinMethodType)):
        name, owner = value.__name__, type(value.__self__).__name__
        raise TypeError(
            f"{path} is the method {name!r} of a {owner}, not data; the value of a context's key "
            f"with that name is read as context[{name!r}]"
        )
