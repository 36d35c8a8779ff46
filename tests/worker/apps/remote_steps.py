"""The tasks and functions of remote steps."""

from __future__ import annotations

from celery import shared_task

from celery_saga import SagaRequest, saga_info, saga_step
from tests.worker.apps.journal import note


def content_of(context):
    info = saga_info()
    wanted = {key: context[key] for key in ("do", "hold", "answer") if key in context}
    return {"saga": info.saga_id, **wanted}


@saga_step
def ask(context):
    note("began")
    return SagaRequest("stock.reserve", content_of(context))


@saga_step
def pay(context):
    content, target = context["content"], context.get("target", "bank.pay")
    if "currency" in context:
        return SagaRequest.call(target, content, currency=context["currency"])
    return SagaRequest(target, content)


@saga_step
def answered(context, response):
    context["got"] = [int(response.status), response.content(), sorted(response.related_services)]


@saga_step
def ask_back(context):
    note("began")
    return SagaRequest("stock.release", content_of(context))


@saga_step
def took(context, response):
    note("took", content=response.content(), status=int(response.status))
    if "took fails" in context.get("do", ()):
        raise ValueError("took fails")
    context["got"] = response.content()
    return context


@saga_step
async def took_async(context, response):
    content = await response.content()
    context["got"] = content


@saga_step
def refused(context, response):
    note("refused", content=response.content(), status=int(response.status))
    if "refused raises" in context.get("do", ()):
        raise ValueError("refused raises")
    if "refused returns" in context.get("do", ()):
        return ValueError("refused returns")
    context["refused"] = response.content()
    return context


@saga_step
def asks_without_a_target(context):
    return SagaRequest("warehouse", {})


@saga_step
def asks_unknown(context):
    return SagaRequest("stock.unknown", {"saga": saga_info().saga_id})


@saga_step
def asks_our_own(context):
    return SagaRequest("own.unknown", {})


@saga_step
def asks_with_a_method(context):
    return SagaRequest("stock.reserve", context.items)


@saga_step
def asks_without_a_request(context):
    return {"target": "stock.reserve"}


@shared_task(acks_late=True)
def ask_by_name(order):
    return SagaRequest("stock.reserve", {"saga": saga_info().saga_id, "answer": order})


@shared_task(bind=True, acks_late=True)
def took_as_task(self, context, response):
    context["got"] = response.content()
    return context
