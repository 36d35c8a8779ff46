"""Services with the package: ``@saga_participant``, refusals and duplicates."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_saga import (
    DefinitionWarning,
    Saga,
    SagaParticipantError,
    SagaResponse,
    SagaResult,
    SagaStuck,
    saga_participant,
)
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import remote_steps as remote
from tests.worker.harness import Journal, Site
from tests.worker.remote_site import own_worker
from tests.worker.stage import expect_no_leftovers

pytestmark = pytest.mark.worker

TARGETS = {
    "saga_targets": {"bank-service": ("bank.pay", "bank")},
    "task_routes": {"bank.*": {"queue": "bank"}},
}


@pytest.fixture(scope="module")
def bank(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    found = Site(valkey.url(14), journal, folder)
    found.settings.update(TARGETS)
    found.app.conf.update(**TARGETS)
    try:
        own_worker(found)
        found.worker("-Q", "bank", "-c", "1", app="tests.worker.apps.participant_with_plugin")
        yield found
        expect_no_leftovers(found)
    finally:
        found.close()


def payment(site: Site, **context: Any) -> SagaResult:
    saga = Saga("payment", app=site.app)
    step = saga.remote_step(remote.pay, name="pay")
    step.on_success(remote.answered).on_error(remote.answered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DefinitionWarning)
        return saga.commit().delay(**context)


#: What is requested -> the status, the content and the services of the reply; None: it failed.
ROWS: dict[str, tuple[dict[str, Any], list[Any] | None]] = {
    "a result": ({"content": 7}, [200, {"paid": 7}, []]),
    "a name in saga_targets": ({"content": 7, "target": "bank-service"}, [200, {"paid": 7}, []]),
    "its error, with content": ({"content": "error"}, [400, {"limit": 5}, []]),
    "its error without any": ({"content": "error without a text"}, [400, "", []]),
    "an error of the service's own": ({"content": "own error"}, [400, "by 7", []]),
    "another error": ({"content": "another error"}, None),
    "a response": ({"content": "response"}, [400, "declined", ["bank", "scoring"]]),
    "a response of a plain task": (
        {"content": "response", "target": "bank.pay_plain"},
        [400, "declined", ["bank", "scoring"]],
    ),
    "its error in a plain task": (
        {"content": "error", "target": "bank.pay_plain"},
        [400, {"limit": 5}, []],
    ),
    "a call of a bound task as it is": (
        {"content": 7, "target": "bank.pay_bound", "currency": "USD"},
        [200, {"paid": 7, "currency": "USD", "task": "bank.pay_bound"}, []],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_a_participant_replies(bank: Site, row: str) -> None:
    context, got = ROWS[row]
    result = payment(bank, **context)
    assert bank.settled(result) == ("STUCK" if got is None else "COMPLETED")
    assert result.context.get("got") == got


def test_the_error_of_a_task_is_in_the_result_backend_that_both_have(bank: Site) -> None:
    result = payment(bank, content="another error")
    with pytest.raises(SagaStuck, match=r"~r0~2 of the other service failed; builtins\.Value"):
        result.get(timeout=40)


@pytest.mark.parametrize(("target", "bodies"), [("bank.pay", 1), ("bank.forgets", 2)])
def test_a_duplicate_is_answered_from_its_record(bank: Site, target: str, bodies: int) -> None:
    """A task that stores no result has no record."""
    result = payment(bank, content=7, target=target)
    assert bank.settled(result) == "COMPLETED"

    header = {"saga_id": result.id, "ref": "f0~2", "token": "of the copy"}
    link = bank.app.signature("celery_saga.reply", kwargs=header, options={"queue": "replies"})
    bank.app.send_task(
        target,
        (7,),
        task_id=f"{result.id}~r0~2",
        headers={"saga_request": header},
        link=[link],
        queue="bank",
    )
    wait_for(lambda: bank.client.llen("replies") > 0)
    message = json.loads(bank.client.rpop("replies"))  # type: ignore[arg-type]
    bank.client.delete("replies", "_kombu.binding.replies")
    assert message["headers"]["task"] == "celery_saga.reply"
    assert len(bank.journal.said(result.id, "served")) == bodies


class Refused(Exception):
    """An error of a service's own."""


@saga_participant(refuses=(Refused, KeyError))
def serve(error: type[Exception] | None) -> Any:
    """A task of a service."""
    if error is not None:
        raise error("no")
    return SagaResponse("yes")


class TestOutsideOfASaga:
    """A call by other code gets what the function returns and raises."""

    def test_directly(self) -> None:
        assert serve(None) == SagaResponse("yes")
        assert (serve.__name__, serve.__doc__) == ("serve", "A task of a service.")

    @pytest.mark.parametrize("error", [Refused, KeyError, SagaParticipantError, ValueError])
    def test_its_errors_pass_through(self, error: type[Exception]) -> None:
        app = Celery("bank", set_as_current=False)
        task = app.task(serve, name="bank.serve")
        with pytest.raises(error):
            task.apply((error,)).get()
