"""SagaRequest, SagaResponse and the status of a response."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from celery_saga.core.context.codec import JSON
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.remote import SagaRequest, SagaResponse, SagaResponseStatus

UUID_1 = UUID(int=1)

REQUESTS = [
    SagaRequest("inventory"),
    SagaRequest("payment", {"amount": 99.99, "items": [1]}),
    SagaRequest(target="payment", content=[b"raw", UUID_1]),
]
RESPONSES = [
    SagaResponse(),
    SagaResponse({"id": 1}),
    SagaResponse("declined", {"stock", "billing"}, 400, UUID_1),
    SagaResponse(status=SagaResponseStatus.SYSTEM_ERROR, uuid="order-7"),
]


class TestStatus:
    @pytest.mark.parametrize(
        ("name", "value"), [("SUCCESS", 200), ("ERROR", 400), ("SYSTEM_ERROR", 500)]
    )
    def test_the_numbers_of_minos(self, name: str, value: int) -> None:
        assert SagaResponseStatus[name] is SagaResponseStatus(value)
        assert SagaResponseStatus[name] == value
        assert SagaResponse(status=value).status is SagaResponseStatus[name]

    @pytest.mark.parametrize("status", [600, 0, -1, "200", "SUCCESS", True, [200]])
    def test_an_unknown_status_is_refused_with_the_allowed_ones(self, status: Any) -> None:
        for refuse in (SagaResponseStatus, lambda status: SagaResponse(status=status)):
            with pytest.raises(ValueError, match=r"200 .SUCCESS., 400 .ERROR., 500 .SYSTEM_ERROR."):
                refuse(status)


class TestContent:
    @pytest.mark.parametrize("content", [None, 1, "text", {"a": [1]}, []])
    def test_a_plain_handler_gets_the_value(self, content: Any) -> None:
        assert SagaResponse(content).content() is content
        assert SagaResponse({"id": 7}).content()["id"] == 7

    def test_an_async_handler_awaits_the_value(self) -> None:
        async def handler(response: SagaResponse) -> Any:
            return (await response.content())["id"]

        assert asyncio.run(handler(SagaResponse({"id": 7})._for_async())) == 7

    def test_the_response_of_an_async_handler_is_the_same_in_all_else(self) -> None:
        response = SagaResponse({"id": 7}, {"stock"}, 400, UUID_1)

        twin = response._for_async()

        assert isinstance(twin, SagaResponse)
        assert twin == response
        assert hash(twin) == hash(response)
        assert repr(twin) == repr(response)
        assert twin.to_dict() == response.to_dict()
        assert asyncio.run(twin._for_async().content()) == {"id": 7}

    def test_the_content_of_a_request_is_awaited(self) -> None:
        async def read() -> Any:
            return await SagaRequest("stock", {"id": 7}).content(ignored=1)

        assert asyncio.run(read()) == {"id": 7}

    @pytest.mark.parametrize("build", [lambda c: SagaRequest("stock", c), SagaResponse])
    def test_a_method_in_the_place_of_data_is_refused(self, build: Any) -> None:
        context = SagaContext(items=["A"])

        for content, path in [
            (context.items, "content"),
            ({"order_id": 1, "items": context.items}, r"content\['items'\]"),
            ([1, context.items], r"content\[1\]"),
            (SagaContext(lines=context.items), r"content\['lines'\]"),
        ]:
            with pytest.raises(TypeError, match=rf"^{path} is the method 'items' of a SagaContext"):
                build(content)
        with pytest.raises(TypeError, match=r"context\['items'\]$"):
            build({"items": context.items})
        with pytest.raises(TypeError, match="the method 'items' of a dict"):
            build({"items": {"a": 1}.items})
        assert build({"items": context["items"]}).to_dict()["content"] == {"items": ["A"]}


class TestRequest:
    @pytest.mark.parametrize("target", [None, 1, b"stock", ["stock"]])
    def test_the_target_is_a_str(self, target: Any) -> None:
        with pytest.raises(TypeError, match=f"is a str, not {type(target).__name__}"):
            SagaRequest(target)

    def test_the_target_is_not_empty(self) -> None:
        with pytest.raises(ValueError, match="name a task"):
            SagaRequest("")

    def test_equality(self) -> None:
        assert SagaRequest("stock", [1]) == SagaRequest("stock", [1])
        assert SagaRequest("stock", [1]) != SagaRequest("stock", [2])
        assert SagaRequest("stock", [1]) != SagaRequest("billing", [1])
        assert SagaRequest("stock") != "stock"
        assert SagaRequest("stock") != SagaResponse("stock")

    def test_equal_requests_have_one_hash_even_if_their_content_has_none(self) -> None:
        assert len({SagaRequest("stock", {"a": []}), SagaRequest("stock", {"a": []})}) == 1

    def test_repr_hides_secrets(self) -> None:
        request = SagaRequest("pay", {"card": {"cvv": "123"}, "total": 1})

        assert repr(request) == (
            "SagaRequest(target='pay', content={'card': {'cvv': '***'}, 'total': 1})"
        )

    def test_it_is_immutable(self) -> None:
        with pytest.raises(AttributeError):
            SagaRequest("stock").target = "billing"  # type: ignore[misc]
        with pytest.raises(AttributeError):
            SagaRequest("stock").extra = 1  # type: ignore[attr-defined]


class TestResponse:
    def test_defaults(self) -> None:
        response = SagaResponse()

        assert response.content() is None
        assert response.status is SagaResponseStatus.SUCCESS
        assert response.related_services == set()
        assert response.uuid is None

    @pytest.mark.parametrize(
        ("status", "ok"), [(None, True), (200, True), (400, False), (500, False)]
    )
    def test_ok_is_success_only(self, status: int | None, ok: bool) -> None:
        assert SagaResponse(status=status).ok is ok

    def test_related_services_is_not_a_single_name(self) -> None:
        with pytest.raises(TypeError, match="not one str"):
            SagaResponse(related_services="stock")

    def test_equality_looks_at_all_four_parts(self) -> None:
        parts: dict[str, Any] = {
            "content": [1],
            "related_services": {"a"},
            "status": 400,
            "uuid": UUID_1,
        }
        other: dict[str, Any] = {
            "content": [2],
            "related_services": {"b"},
            "status": 500,
            "uuid": "x",
        }

        assert SagaResponse(**parts) == SagaResponse(**parts)
        assert hash(SagaResponse(**parts)) == hash(SagaResponse(**parts))
        for name, value in other.items():
            assert SagaResponse(**parts) != SagaResponse(**{**parts, name: value}), name
        assert SagaResponse([1]) != [1]

    def test_repr_hides_secrets(self) -> None:
        response = SagaResponse({"token": "t", "id": 1}, {"b", "a"}, 400, "s1")

        assert repr(response) == (
            "SagaResponse(content={'token': '***', 'id': 1}, related_services=['a', 'b'], "
            "status=400, uuid='s1')"
        )


@pytest.mark.parametrize("message", [*REQUESTS, *RESPONSES], ids=repr)
def test_a_message_comes_back_equal_from_its_data(message: SagaRequest | SagaResponse) -> None:
    data = JSON.loads(JSON.dumps(message.to_dict()))

    assert type(message).from_dict(data) == message
    assert type(message).from_dict(data).to_dict() == message.to_dict()


def test_the_data_of_a_message_is_plain_json() -> None:
    assert json.dumps(SagaRequest("stock", {"id": 1}).to_dict()) == (
        '{"target": "stock", "content": {"id": 1}}'
    )
    assert json.dumps(SagaResponse([1], {"b", "a"}, 400, "s1").to_dict()) == (
        '{"content": [1], "related_services": ["a", "b"], "status": 400, "uuid": "s1"}'
    )
