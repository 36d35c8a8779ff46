"""The request and the response of a remote step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import BuiltinMethodType, MethodType
from typing import Any, NamedTuple
from uuid import UUID

from celery_saga.core.context.codec import Codec
from celery_saga.core.context.masking import masked
from celery_saga.core.failures import class_name, text_of
from celery_saga.errors import SagaParticipantError

#: The one key of a task's result that is a whole response; a task that hands the request on returns
#: one of status 202 (as HTTP's "Accepted"): ``SagaManager.reply()`` brings the reply later.
RESPONSE, ACCEPTED = "saga_response", 202


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

    __slots__ = ("_args", "_content", "_kwargs", "_target")

    def __init__(self, target: str, content: Any = None) -> None:
        if not isinstance(target, str):
            raise TypeError(f"the target of a SagaRequest is a str, not {type(target).__name__}")
        if not target:
            raise ValueError("the target of a SagaRequest is empty; name a task")
        self._target = target
        self._content = _without_methods(content)
        self._args: tuple[Any, ...] = (content,)
        self._kwargs: dict[str, Any] = {}

    @classmethod
    def call(cls, target: str, /, *args: Any, **kwargs: Any) -> SagaRequest:
        """A request that calls a task as it is, with these arguments in place of one content.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        made = cls(target)
        made._args, made._kwargs = tuple(_without_methods(list(args))), _without_methods(kwargs)
        return made

    @property
    def target(self) -> str:
        """The receiver of the request."""
        return self._target

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments of the receiver's task: the content, or those of a call."""
        return self._args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments of the receiver's task."""
        return self._kwargs

    async def content(self, **kwargs: Any) -> Any:
        """The content. A coroutine, with ignored arguments, as in the Minos framework."""
        return self._content

    def to_dict(self) -> dict[str, Any]:
        """The request as data: ``{"target": str, "content": ...}``.

        Of a call ``{"target": str, "args": [...], "kwargs": {...}}``.
        """
        if self._is_call:
            return {"target": self._target, "args": list(self._args), "kwargs": dict(self._kwargs)}
        return {"target": self._target, "content": self._content}

    @property
    def _is_call(self) -> bool:
        return bool(self._kwargs) or self._args != (self._content,)

    def __json__(self) -> dict[str, Any]:
        """The same, for kombu's JSON: a result backend may store it as a task's result."""
        return self.to_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SagaRequest:
        """Restore a request from :meth:`to_dict`."""
        if "args" in data:
            return cls.call(data["target"], *data["args"], **data["kwargs"])
        return cls(data["target"], data["content"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SagaRequest):
            return NotImplemented
        mine, others = ((it._target, it._args, it._kwargs) for it in (self, other))
        return mine == others

    def __hash__(self) -> int:
        return hash(self._target)

    def __repr__(self) -> str:
        if self._is_call:
            shown = [*map(repr, masked(list(self._args)))]
            shown += [f"{name}={value!r}" for name, value in masked(self._kwargs).items()]
            return f"SagaRequest.call({', '.join([repr(self._target), *shown])})"
        return f"SagaRequest(target={self._target!r}, content={masked(self._content)!r})"


class SagaResponse:
    """The response to a :class:`SagaRequest`.

    Immutable. Two responses are equal if all four parts are; the hash ignores the content.

    Args:
        content: any value that :mod:`celery_saga.core.context.codec` can store.
        related_services: names of the services that took part.
        status: a :class:`SagaResponseStatus` or its number; by default SUCCESS.
        uuid: the id of the saga that waits for the response.
        token: of the request's header ``saga_request``; only ``SagaManager.run(response=)`` needs
            it, which finds the request by it.

    Raises:
        TypeError: content is, or holds, a bound method.
        ValueError: status is not one of the three numbers.
    """

    __slots__ = ("_content", "_related_services", "_status", "_token", "_uuid")

    def __init__(
        self,
        content: Any = None,
        related_services: Iterable[str] | None = None,
        status: SagaResponseStatus | int | None = None,
        uuid: UUID | str | None = None,
        *,
        token: str = "",
    ) -> None:
        if isinstance(related_services, str):
            raise TypeError("related_services is a set of names, not one str")
        self._content = _without_methods(content)
        self._related_services = frozenset(related_services or ())
        self._status = SagaResponseStatus(SagaResponseStatus.SUCCESS if status is None else status)
        self._uuid, self._token = uuid, token

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

    @property
    def token(self) -> str:
        """The token of the request, if it was given."""
        return self._token

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

    def __json__(self) -> dict[str, Any]:
        """The form in which a task's result has it: ``{"saga_response": {...}}``.

        A service without this library returns such a dict to choose the status of its reply.
        """
        return {RESPONSE: self.to_dict()}

    @classmethod
    def of_result(cls, result: Any) -> SagaResponse | None:
        """The response of a task that returned ``result``: SUCCESS, unless it says otherwise.

        ``None``: the reply comes later.

        Raises:
            ValueError: its status is not one of the three numbers.
            TypeError: ``related_services`` is not a list of names.
        """
        if isinstance(result, SagaResponse):
            return result
        if isinstance(result, Mapping) and list(result) == [RESPONSE]:
            given = result[RESPONSE]
            if isinstance(given, Mapping):
                if given.get("status") == ACCEPTED:
                    return None
                return cls(given.get("content"), given.get("related_services"), given.get("status"))
        return cls(result)

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


class Outcome(NamedTuple):
    """How a task of another service has ended.

    Args:
        response: the reply to its request.
        error: what is known of a failure; a text.
    """

    response: SagaResponse
    error: str = ""

    @classmethod
    def of_result(cls, result: Any) -> Outcome | None:
        """The outcome of a task that returned ``result``; ``None``: its reply comes later."""
        try:
            response = SagaResponse.of_result(result)
        except (TypeError, ValueError) as error:
            return cls(SagaResponse(status=SagaResponseStatus.SYSTEM_ERROR), str(error))
        return None if response is None else cls(response)

    @classmethod
    def of_failure(cls, task_id: str, error: Any = None) -> Outcome:
        """The outcome of a task that failed; ``error``: what it raised, if that is known."""
        if isinstance(error, SagaParticipantError):
            return cls(SagaResponse(error.content, status=SagaResponseStatus.ERROR))
        known = "its worker's log has the error"
        if isinstance(error, BaseException):
            known = f"{class_name(type(error))}: {text_of(error)}"
        text = f"task {task_id} of the other service failed; {known}"
        return cls(SagaResponse(status=SagaResponseStatus.SYSTEM_ERROR), text)

    def reply(self, codec: Codec, limit: int | None) -> tuple[Mapping[str, Any], str]:
        """The reply as a step's record keeps it, and the error.

        Args:
            limit: characters of its content; a longer one is a failure.

        Raises:
            UnserializableValue: its content is not JSON-serializable.
        """
        text, status = codec.dumps(self.response.content(), "the content of a reply"), None
        error = self.error
        if limit is not None and len(text) > limit:
            error = f"its content has {len(text)} characters; saga_context_limit allows {limit}"
            text, status = "null", SagaResponseStatus.SYSTEM_ERROR
        services = sorted(self.response.related_services)
        found = self.response.status if status is None else status
        return {"status": found.value, "content": text, "related_services": services}, error


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
