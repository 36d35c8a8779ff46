"""The tab for sagas in Flower, over HTTP, without a browser, a worker or a broker."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from celery import Celery

from celery_saga import AbortSaga, LocalSagaStep, Saga, SagaManager, SagaResult

pytest.importorskip("flower")

import flower.urls
from flower.app import Flower
from tornado.httpclient import HTTPResponse
from tornado.options import options
from tornado.testing import AsyncHTTPTestCase

from celery_saga.ops.flower import install
from celery_saga.ops.flower.reading import one

assert install()
assert install(), "a second call finds it there"

ANN = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
JSON = {"Content-Type": "application/json"}
EVIL = "<script>alert(1)</script>\x1b[31m\u202egnp.exe"


def shop() -> tuple[Celery, Mapping[str, SagaResult]]:
    """An app with a saga of each kind."""
    app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.update(
        task_always_eager=True, saga_store_url="memory://", saga_compensation_max_attempts=1
    )
    SagaManager(app)

    @app.task(name="reserve", shared=False)
    def reserve(order_id: int) -> dict[str, Any]:
        return {"reservation": f"r{order_id}"}

    @app.task(name="release", shared=False)
    def release(reservation: str, broken: bool = False) -> None:
        if broken:
            raise ConnectionError(EVIL)

    @app.task(name="charge", shared=False)
    def charge(order_id: int, declined: bool = False) -> dict[str, Any]:
        if declined:
            raise AbortSaga("the card is declined")
        return {"payment": order_id}

    def saga(name: str, waits: bool = False) -> Saga:
        made = Saga(name, app=app)
        made.local_step(reserve).on_failure(release)
        if waits:
            made.wait_for("approved")
        made.local_step(charge)
        return made.commit()

    orders, approvals = saga("orders"), saga("approvals", waits=True)
    return app, {
        "done": orders.apply_async({"order_id": 1, "password": "hush"}, saga_id="order-1"),
        "rolled": orders.apply_async({"order_id": 2, "declined": True}, saga_id="order-2"),
        "stuck": orders.apply_async(
            {"order_id": 3, "declined": True, "broken": True, "note": EVIL}, saga_id="order-3"
        ),
        "waits": approvals.apply_async({"order_id": 4}, saga_id="approval-4"),
    }


class Tab(AsyncHTTPTestCase):
    """A Flower with the tab."""

    users: tuple[str, ...] = ("ann:secret",)
    flags: Mapping[str, Any] = MappingProxyType({})

    def get_app(self) -> Flower:
        self.celery, self.sagas = shop()
        for name, value in {"basic_auth": [*self.users], "url_prefix": None, **self.flags}.items():
            patched = mock.patch.object(options.mockable(), name, value)
            patched.start()
            self.addCleanup(patched.stop)
        return Flower(capp=self.celery, options=options, **flower.urls.settings)

    def page(self, path: str, **query: Any) -> HTTPResponse:
        path = f"{path}?{urlencode(query)}" if query else path
        return self.fetch(path, headers=ANN, follow_redirects=False)

    def post(self, path: str, fields: Any = None, **headers: str) -> HTTPResponse:
        body = fields if isinstance(fields, str) else json.dumps(fields or {})
        headers = {**ANN, **JSON, **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.fetch(path, method="POST", headers=headers, body=body)


class TestList(Tab):
    def rows(self, **query: Any) -> list[str]:
        found = self.page("/sagas", **query)
        assert found.code == 200, found.body
        return re.findall(r"<code>([^<]+)</code>", found.body.decode())

    def test_all_of_them_the_last_changed_first(self) -> None:
        assert self.rows() == ["approval-4", "order-3", "order-2", "order-1"]

    def test_by_status_and_name(self) -> None:
        assert self.rows(status="STUCK") == ["order-3"]
        assert self.rows(saga="approvals") == ["approval-4"]
        assert self.rows(status="COMPLETED", saga="approvals") == []
        assert self.page("/sagas", status="LOST").code == 400
        assert self.page("/sagas", page="two").code == 400
        assert self.page("/sagas", page="0").code == 400

    def test_page_after_page(self) -> None:
        found = json.loads(self.page("/api/sagas", limit=2).body)
        more = json.loads(self.page("/api/sagas", limit=2, page=found["next"]).body)
        ids = [each["id"] for each in [*found["sagas"], *more["sagas"]]]
        assert ids == ["approval-4", "order-3", "order-2", "order-1"]
        assert more["next"] is None
        assert found["counts"] == {
            "CREATED": 0, "RUNNING": 1, "PAUSED": 0, "COMPENSATING": 0, "COMPLETED": 1,
            "COMPENSATED": 1, "STUCK": 1,
        }  # fmt: skip
        assert re.search(r">Stuck 1</a>", self.page("/sagas").body.decode())

    def test_an_id_leads_to_its_page(self) -> None:
        found = self.page("/sagas", id="order-2")
        assert (found.code, found.headers["Location"]) == (302, "/saga/order-2")

    def test_the_tab_is_on_flowers_own_pages(self) -> None:
        for path in ("/workers", "/tasks", "/sagas"):
            assert b">Sagas</a>" in self.page(path).body

    def test_the_style_and_the_script_are_served(self) -> None:
        for name in ("saga.css", "saga.js"):
            assert self.page(f"/saga-static/{name}").code == 200


def test_commit_tasks_of_branches_are_below_one_row() -> None:
    app = Celery("commits", set_as_current=False, broker="memory://")
    app.conf.update(task_always_eager=True, saga_store_url="memory://", task_acks_late=True)
    SagaManager(app)

    @app.task(name="do", shared=False)
    def do() -> None: ...

    saga = Saga("commits", app=app)
    saga.parallel_step(LocalSagaStep(do, name="a"), LocalSagaStep(do, name="b", on_commit=do))
    saga.for_each("items", LocalSagaStep(do, name="c", on_commit=do))
    saga.commit().apply_async({"items": [1]}, saga_id="order-1")

    rows = [(row["depth"], row["name"]) for row in one(app, "order-1")["rows"]]
    tasks = [(0, "parallel"), (1, "a"), (1, "b"), (0, "for_each"), (1, "c[0]")]
    assert rows == [*tasks, (0, "commit"), (1, "b.commit"), (1, "c.commit[0]")]


class TestSaga(Tab):
    def text(self, saga_id: str) -> str:
        found = self.page(f"/saga/{saga_id}")
        assert found.code == 200, found.body
        return found.body.decode()

    def test_steps_with_their_bars_and_links(self) -> None:
        text = self.text("order-2")
        steps = re.findall(r'class="saga-indent"[^>]*>\s*([^<\s]+)', text)
        assert steps == ["reserve", "charge"]
        assert "/task/order-2~f0~1" in text
        assert "/task/order-2~c0~2" in text
        assert 'class="saga-bar action succeeded"' in text
        assert 'class="saga-bar action failed"' in text
        assert 'class="saga-bar compensation succeeded"' in text
        assert "the card is declined" in text

    def test_secrets_are_masked(self) -> None:
        assert "hush" not in self.text("order-1")
        assert "hush" not in self.page("/api/saga/info/order-1").body.decode()
        assert "hush" not in self.page("/api/saga/export/order-1").body.decode()

    def test_what_a_context_or_an_error_holds_is_only_text(self) -> None:
        text = self.text("order-3")
        assert "alert(1)" in text
        for part in ("<script>alert", "\x1b", "\u202e"):
            assert part not in text
        assert EVIL[:8] not in self.page("/sagas").body.decode()

    def test_long_values_are_cut_and_exported_whole(self) -> None:
        long = "x" * 50_000
        with mock.patch("celery_saga.core.views.overview.masked", return_value={"long": long}):
            text = self.text("order-1")
        assert long[:3000] not in text
        assert "more characters" in text

    def test_an_export_is_loaded_by_a_test(self) -> None:
        raw = json.loads(self.page("/api/saga/export/order-1").body)
        loaded = type(self.sagas["done"].execution).from_raw(raw)
        assert loaded.status == "COMPLETED"
        assert loaded.context["order_id"] == 1

    def test_unknown(self) -> None:
        for path in ("/saga/none", "/api/saga/info/none", "/api/saga/export/none"):
            assert self.page(path).code == 404

    def test_the_commands_that_repair_it(self) -> None:
        text = self.text("order-3")
        assert "celery -A shop saga retry order-3" in text
        assert re.findall(r'data-verb="(\w+)"', text) == ["retry", "skip", "resolve", "resolve"]
        assert "disabled" not in re.findall(r"<button[^>]*data-verb[^>]*>", text)[0]
        assert re.findall(r'data-verb="(\w+)"', self.text("approval-4")) == [
            "signal", "pause", "cancel",
        ]  # fmt: skip


class TestVerbs(Tab):
    def test_each_is_carried_out_and_names_its_operator(self) -> None:
        done = self.post("/api/saga/retry/order-3", {"context": {"broken": False}})
        assert done.code == 200, done.body
        assert json.loads(done.body)["saga"]["status"] == "COMPENSATED"
        note = next(it for it in self.sagas["stuck"].execution.history if it.what == "retry")
        assert note.by == "ann (Flower)"
        assert self.post("/api/saga/pause/approval-4").code == 200
        assert self.post("/api/saga/resume/approval-4").code == 200
        done = self.post("/api/saga/signal/approval-4", {"name": "approved", "payload": {"by": 1}})
        assert done.code == 200, done.body
        assert self.sagas["waits"].execution.signals[0].name == "approved"

    def test_resolve_and_skip(self) -> None:
        assert self.post("/api/saga/resolve/order-3", {"status": "COMPENSATED"}).code == 200
        assert self.sagas["stuck"].status == "COMPENSATED"
        assert self.post("/api/saga/skip/order-3").code == 409

    def test_what_does_not_apply_changes_nothing(self) -> None:
        before = self.sagas["done"].execution
        for verb, fields, code in [
            ("retry", {}, 409),
            ("skip", {}, 409),
            ("resume", {}, 409),
            ("resolve", {"status": "COMPLETED"}, 409),
        ]:
            assert self.post(f"/api/saga/{verb}/order-1", fields).code == code
        assert self.sagas["done"].execution == before

    def test_bad_requests_are_named(self) -> None:
        for path, fields, code, word in [
            ("/api/saga/retry/none", {}, 404, "Unknown saga"),
            ("/api/saga/destroy/order-3", {}, 404, "Unknown verb"),
            ("/api/saga/resolve/order-3", {}, 400, "status"),
            ("/api/saga/resolve/order-3", {"status": "LOST"}, 400, "COMPLETED"),
            ("/api/saga/retry/order-3", "not JSON", 400, "JSON"),
            ("/api/saga/retry/order-3", "[1]", 400, "JSON"),
            ("/api/saga/retry/order-3", {"context": [1]}, 400, "context"),
        ]:
            found = self.post(path, fields)
            assert (found.code, word in found.body.decode()) == (code, True), found.body

    def test_another_site_cannot_send_them(self) -> None:
        assert self.post("/api/saga/skip/order-3", Content_Type="text/plain").code == 415
        assert self.post("/api/saga/skip/order-3", Origin="https://evil.example").code == 403
        assert self.sagas["stuck"].status == "STUCK"

    def test_flowers_own_users_alone(self) -> None:
        for path in ("/sagas", "/saga/order-3", "/api/sagas", "/api/saga/info/order-3"):
            assert self.fetch(path).code == 401
        bare = self.fetch("/api/saga/skip/order-3", method="POST", headers=JSON, body="{}")
        assert bare.code == 401
        # A browser that has the password of the pages sends it to the API after this alone.
        assert bare.headers["WWW-Authenticate"] == 'Basic realm="flower"'
        assert self.sagas["stuck"].status == "STUCK"


class TestWithoutAuthentication(Tab):
    users = ()

    def test_pages_are_shown_and_verbs_are_refused(self) -> None:
        text = self.page("/saga/order-3").body.decode()
        assert "Verbs need a Flower with authentication" in text
        assert all("disabled" in each for each in re.findall(r"<button[^>]*data-verb[^>]*>", text))
        assert self.post("/api/saga/skip/order-3").code == 401
        with mock.patch.dict(os.environ, FLOWER_UNAUTHENTICATED_API="true"):
            assert self.page("/api/sagas").code == 200
            assert self.post("/api/saga/skip/order-3").code == 403
        assert self.sagas["stuck"].status == "STUCK"


@pytest.mark.skipif(not hasattr(options, "read_only"), reason="this Flower has no such mode")
class TestReadOnly(Tab):
    flags = MappingProxyType({"read_only": True})

    def test_verbs_are_refused(self) -> None:
        found = self.post("/api/saga/skip/order-3")
        assert (found.code, b"Read only" in found.body) == (403, True)
        assert b"disabled" in self.page("/saga/order-3").body


class TestPrefix(Tab):
    flags = MappingProxyType({"url_prefix": "ops/flower"})

    def test_links_have_it(self) -> None:
        text = self.page("/ops/flower/saga/order-3").body.decode()
        assert '"/ops/flower/saga-static/saga.css"' in text
        assert "/ops/flower/api/saga/retry/order-3" in text
        assert self.page("/ops/flower/saga-static/saga.css").code == 200


class TestAnotherApp(AsyncHTTPTestCase):
    """An app without a manager has no tab."""

    def get_app(self) -> Flower:
        celery = Celery("plain", set_as_current=False, broker="memory://")
        return Flower(capp=celery, options=options, **flower.urls.settings)

    def test_no_tab(self) -> None:
        found = self.fetch("/workers")
        assert found.code == 200
        assert b"Sagas" not in found.body
        assert self.fetch("/sagas").code == 404


def test_a_flower_that_is_built_otherwise_runs_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("celery_saga")
    monkeypatch.setattr(log, "disabled", False)  # by what another test has configured
    monkeypatch.setattr(log, "propagate", True)
    with (
        caplog.at_level(logging.WARNING, log.name),
        mock.patch.object(flower.urls, "handlers", []),
        mock.patch.object(flower.urls, "settings", {"template_path": "/nowhere"}),
    ):
        assert install() is False
        assert flower.urls.handlers == []
    assert "Flower has no tab for sagas" in caplog.text
