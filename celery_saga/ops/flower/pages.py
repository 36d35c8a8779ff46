"""The tab's pages: the list of sagas, and one saga."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flower.views import BaseHandler
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, authenticated

from celery_saga.core.execution import SagaStatus
from celery_saga.errors import SagaExecutionNotFoundException, SetupError, StoreUnavailable
from celery_saga.ops.flower import reading
from celery_saga.runtime import runtime_of


def has_sagas(handler: Any) -> bool:
    """Whether Flower's app has a ``SagaManager``."""
    try:
        runtime_of(handler.application.capp)
    except SetupError:
        return False
    return True


class SagaHandler(BaseHandler):
    """What pages and API have in common; the store is read in Flower's threads."""

    def prepare(self) -> Any:
        if not has_sagas(self):
            raise HTTPError(404, "This app has no SagaManager")
        return super().prepare()

    async def read(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The answer of a call that waits for the store.

        Raises:
            HTTPError: no saga has this id (404), or the store is unavailable (503).
        """

        def called() -> Any:
            return call(self.capp, *args, **options)

        try:
            return await IOLoop.current().run_in_executor(self.application.executor, called)
        except SagaExecutionNotFoundException as error:
            raise HTTPError(404, "Unknown saga") from error
        except StoreUnavailable as error:
            raise HTTPError(503, "The store of sagas is unavailable") from error

    def text_of(self, name: str) -> str:
        """An argument of the request as it was given; templates escape what they show."""
        return str(self.get_query_argument(name, ""))

    def number_of(self, name: str, otherwise: int) -> int:
        """An argument that is a whole number.

        Raises:
            HTTPError: it is something else.
        """
        text = self.text_of(name)
        try:
            return int(text) if text else otherwise
        except ValueError as error:
            raise HTTPError(400, f"{name}: expected a whole number") from error

    @property
    def can_act(self) -> bool:
        """Whether verbs may be used: Flower asks who its users are, and is not read-only."""
        options = self.application.options
        return bool(options.basic_auth or options.auth) and not getattr(options, "read_only", False)


class SagasView(SagaHandler):
    """The list: pills for the statuses, a search by id or name, pages."""

    @authenticated
    async def get(self) -> None:
        status, saga = self.text_of("status"), self.text_of("saga")
        wanted = self.text_of("id").strip()
        if wanted:
            self.redirect(self.reverse_url("saga", wanted))
            return
        try:
            page = await self.read(reading.sagas, status, saga, self.number_of("page", 1))
        except ValueError as error:
            raise HTTPError(400, str(error)) from error
        statuses = [each.value for each in SagaStatus]
        self.render(
            "sagas.html",
            page=page,
            status=status,
            saga=saga,
            statuses=statuses,
            colour=reading.colour,
        )


class SagaView(SagaHandler):
    """One saga: its steps on a line of time, its context, its history, and the verbs."""

    @authenticated
    async def get(self, saga_id: str) -> None:
        found = await self.read(reading.one, saga_id)
        self.render("saga.html", saga=found, can_act=self.can_act, colour=reading.colour)
