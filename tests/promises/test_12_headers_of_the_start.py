"""The headers of a start are on every message of its saga, from any sender."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from celery_saga import SagaCompensated
from tests.worker.harness import Site

pytestmark = pytest.mark.worker

APP = "tests.worker.apps.tenants"


@pytest.fixture(scope="module")
def tenants(valkey, journal, folder) -> Iterator[Any]:
    """The app in this process, and the site of a worker on it."""
    site = Site(valkey.url(14), journal, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment().items():
            patch.setenv(name, value)
        module: Any = importlib.import_module(APP)
        # Celery's settings are a module, which may have been imported for another site.
        module.app.conf.update(broker_url=site.url, result_backend=site.url)
        assert module.app.conf.broker_url == site.url
    try:
        site.worker(app=APP)
        yield module, site
    finally:
        module.disconnect()
        module.app.close()
        site.close()


def ended(result: Any) -> str:
    with contextlib.suppress(SagaCompensated):
        result.get(timeout=60)
    return str(result.status.value)


#: The saga, its end, and the bodies that ran.
ROWS = {
    "forward": ("COMPLETED", ["book", "again", "again"]),
    "compensation sent by the sweep": ("COMPENSATED", ["book", "pay", "book", "book"]),
    "the engine's own retry": ("COMPLETED", ["later", "later", "book"]),
    "a process that is killed": ("COMPLETED", ["at_a_gate", "at_a_gate", "book"]),
    "a hard time limit": ("COMPENSATED", ["book", "too_long", "book", "book"]),
}


class TestEverySender:
    @pytest.mark.parametrize("countdown", [None, 0.01], ids=["at once", "with a countdown"])
    @pytest.mark.parametrize("row", ROWS)
    def test_all_bodies_run_in_the_tenant_of_the_start(self, tenants, journal, row, countdown):
        module, site = tenants
        token = module.tenant.set("acme")
        try:
            result = module.SAGAS[row].apply_async({}, countdown=countdown)
        finally:
            module.tenant.reset(token)
        status, steps = ROWS[row]
        if row == "a process that is killed":
            site.kill_child(journal.wait(result.id, "began"))

        assert ended(result) == status
        lines = journal.said(result.id, "began")
        assert [line["step"] for line in lines] == steps
        assert [line["tenant"] for line in lines] == ["acme"] * len(steps)

    def test_a_lost_message(self, tenants, journal):
        """No worker consumes this one's queue until its message is deleted."""
        module, site = tenants
        headers = {"tenant": "acme"}
        result = module.SAGAS["forward"].apply_async({}, headers=headers, queue="lost-tenants")
        assert site.client.delete("lost-tenants") == 1
        site.worker("-Q", "lost-tenants", app=APP)

        assert ended(result) == "COMPLETED"
        assert {line["tenant"] for line in journal.said(result.id, "began")} == {"acme"}


class TestEverySource:
    @pytest.mark.parametrize("way", ["apply_async", "set", "signature", "delay of a signature"])
    def test_they_come_with_the_call_or_with_the_message(self, tenants, journal, way):
        module, _ = tenants
        saga, headers = module.SAGAS["forward"], {"tenant": "acme"}
        if way == "apply_async":
            started = saga.apply_async({}, headers=headers)
        elif way == "set":
            started = saga.s().set(headers=headers).apply_async()
        elif way == "signature":
            started = saga.signature(headers=headers).apply_async()
        else:
            token = module.tenant.set("acme")
            started = saga.s().delay()
            module.tenant.reset(token)
        started.get(timeout=60)
        lines = journal.said(started.id, "began")
        assert [line["tenant"] for line in lines] == ["acme"] * 3

    def test_two_tenants_do_not_mix(self, tenants, journal):
        module, _ = tenants
        saga = module.SAGAS["forward"]
        names = ["acme", "other"] * 5
        found = [saga.apply_async({}, headers={"tenant": name}) for name in names]
        for name, result in zip(names, found, strict=True):
            result.get(timeout=60)
            assert {line["tenant"] for line in journal.said(result.id, "began")} == {name}
