"""The tab's part of Flower's API: ``/api/sagas``, ``/api/saga/info/ID``, ``/api/saga/VERB/ID``.

As in Flower's own API, a Flower without authentication answers 401, unless
``FLOWER_UNAUTHENTICATED_API`` is set; a verb is refused then all the same.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlparse

from celery import Celery
from flower.api import BaseApiHandler
from tornado.web import HTTPError, authenticated

from celery_saga.core.decide.repair import repairs_of
from celery_saga.core.views.overview import brief, view
from celery_saga.errors import SagaError, SagaExecutionNotFoundException, SagaNotActionable
from celery_saga.manager import SagaManager
from celery_saga.ops.flower import reading
from celery_saga.ops.flower.pages import SagaHandler

#: A verb: the manager, the saga's id, the operator, the fields of the request.
Verb = Callable[[SagaManager, str, str, Mapping[str, Any]], Any]

VERBS: Mapping[str, Verb] = {
    "retry": lambda m, saga, by, it: m.retry(saga, it.get("context") or None, by=by),
    "skip": lambda m, saga, by, it: m.skip(saga, by=by),
    "resolve": lambda m, saga, by, it: m.resolve(saga, it["status"], by=by),
    "cancel": lambda m, saga, by, it: m.cancel(saga, it.get("reason") or "cancelled", by=by),
    "pause": lambda m, saga, by, it: m.pause(saga, by=by),
    "resume": lambda m, saga, by, it: m.resume(saga, by=by),
    "signal": lambda m, saga, by, it: m.signal(saga, it["name"], it.get("payload"), by=by),
}


class SagaApiHandler(BaseApiHandler, SagaHandler):
    """Flower's rules for its API, and what the pages have."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As Flower's, with the header after which a browser sends the password of the pages."""
        if status_code == 401 and self.application.options.basic_auth:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        super().write_error(status_code, **kwargs)


class ListSagas(SagaApiHandler):
    """``GET /api/sagas?status=STUCK&saga=orders&limit=50&page=2``."""

    @authenticated
    async def get(self) -> None:
        status, saga = self.text_of("status"), self.text_of("saga")
        page, limit = self.number_of("page", 1), self.number_of("limit", reading.PAGE)
        if not 1 <= limit <= 1000:
            raise HTTPError(400, "limit: expected 1 to 1000")
        try:
            found = await self.read(reading.sagas, status, saga, page, limit)
        except ValueError as error:
            raise HTTPError(400, str(error)) from error
        self.write(found)


class SagaInfo(SagaApiHandler):
    """``GET /api/saga/info/ID``: what ``celery saga show --json`` prints."""

    @authenticated
    async def get(self, saga_id: str) -> None:
        self.write(await self.read(_info, saga_id))


class SagaExport(SagaApiHandler):
    """``GET /api/saga/export/ID``: ``SagaExecution.raw``, with secrets masked, as a file."""

    @authenticated
    async def get(self, saga_id: str) -> None:
        found = await self.read(reading.export, saga_id)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header(
            "Content-Disposition", f'attachment; filename="saga-{found["saga_id"]}.json"'
        )
        self.write(json.dumps(found, indent=2))


class SagaVerb(SagaApiHandler):
    """``POST /api/saga/VERB/ID`` with a JSON object of the verb's fields."""

    @authenticated
    async def post(self, verb: str, saga_id: str) -> None:
        if getattr(self.application.options, "read_only", False):
            raise HTTPError(403, "Read only mode is enabled")
        if not self.can_act:
            raise HTTPError(
                403, "Verbs need a Flower with basic_auth or auth: they name the operator"
            )
        self._check_origin()
        if verb not in VERBS:
            raise HTTPError(404, f"Unknown verb; expected one of {', '.join(VERBS)}")
        fields = self._fields()
        self.write(await self.read(_carried_out, verb, saga_id, self._operator(), fields))

    def _check_origin(self) -> None:
        """Refuse what another site sends: a form of it cannot send JSON, and a script names it."""
        if self.request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise HTTPError(415, "Expected Content-Type: application/json")
        origin = self.request.headers.get("Origin")
        if origin and urlparse(origin).netloc != self.request.host:
            raise HTTPError(403, "Cross-origin request forbidden")

    def _fields(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise HTTPError(400, "Expected a JSON object") from error
        if not isinstance(found, dict):
            raise HTTPError(400, "Expected a JSON object")
        return found

    def _operator(self) -> str:
        """Who does it, for the saga's history."""
        user = self.current_user
        if isinstance(user, bytes):
            user = user.decode()
        if not isinstance(user, str):  # basic authentication: Flower knows that it is one of them
            user = (self.request.headers.get("Authorization") or "").partition(" ")[2]
            user = _name_in(user)
        return f"{user or 'a user'} (Flower)"


def _name_in(credentials: str) -> str:
    """The name in the credentials of basic authentication."""
    try:
        return b64decode(credentials).decode().partition(":")[0]
    except ValueError:
        return ""


def _info(app: Celery, saga_id: str) -> dict[str, Any]:
    return view(SagaManager(app).get(saga_id).execution, app.main or "proj")


def _carried_out(
    app: Celery, verb: str, saga_id: str, by: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    manager = SagaManager(app)
    if not isinstance(fields.get("context") or {}, dict):
        raise HTTPError(400, "context: expected a JSON object")
    try:
        VERBS[verb](manager, saga_id, by, fields)
    except SagaExecutionNotFoundException:
        raise
    except SagaNotActionable as error:
        raise HTTPError(409, _one_line(error)) from error
    except KeyError as error:
        raise HTTPError(400, f"Expected the field {error}") from error
    except (SagaError, ValueError, TypeError) as error:
        raise HTTPError(400, _one_line(error)) from error
    execution = manager.get(saga_id).execution
    verbs = [text.split()[0] for text, _ in repairs_of(execution)]
    return {"message": f"{verb}: done", "saga": brief(execution), "verbs": verbs}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
