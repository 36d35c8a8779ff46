"""Promise 17: each request of a remote step has one outcome, whatever becomes of its reply."""

from __future__ import annotations

from typing import Any

import pytest

from celery_saga import SagaCompensated, SagaResult
from tests.helpers import wait_for
from tests.worker.harness import Site
from tests.worker.remote_site import FULL, calling, order, own_worker, said, service

pytestmark = pytest.mark.worker


def reply(site: Site, result: SagaResult, header: Any, outcome: Any, **more: Any) -> Any:
    """A message as a worker of the other service sends it."""
    kwargs = {**header, "failed": False, **more}
    return site.app.send_task("celery_saga.reply", (outcome,), kwargs)


def taken(site: Site, held: int = 1) -> None:
    """Wait until our worker has dealt with all messages; so many are held in bodies."""
    wait_for(lambda: site.queued() == 0 and site.client.hlen("unacked") == held)


def test_the_saga_waits_while_all_workers_are_restarted(site: Site) -> None:
    first = own_worker(calling(site))
    result = order(site, **FULL).delay()
    wait_for(lambda: result.progress["stock"] == "WAITING")
    first.kill()
    other = service(site)
    wait_for(lambda: site.queued() == 1)  # the reply
    other.kill()
    assert site.client.keys("saga:claims:*") == []
    own_worker(site)

    assert site.settled(result) == "COMPLETED"
    assert said(site, result) == ["a/f", "stock/f", "reserve", "took", "b/f"]


def test_second_and_forged_replies_change_nothing(site: Site) -> None:
    own_worker(calling(site))
    service(site)
    result = order(site, **FULL).delay(hold=["reserve", "b/f"])
    header = site.journal.wait(result.id, "reserve")["saga_request"]
    for forged in ({"token": "forged"}, {"token": "forged", "failed": True}, {"ref": "f0~1"}):
        reply(site, result, {**header, **forged}, "forged")
    reply(site, result, {**header, "saga_id": "another"}, "forged")
    taken(site)
    assert result.progress["stock"] == "WAITING"

    site.journal.open(result.id, "reserve")
    site.journal.wait(result.id, "began", 3)
    for outcome, more in (("again", {}), ("again", {"failed": True})):
        reply(site, result, header, outcome, **more)
    taken(site)
    site.journal.open(result.id, "b/f")

    assert site.settled(result) == "COMPLETED"
    assert result.context["got"] == {"reservation": 7}
    assert said(site, result) == ["a/f", "stock/f", "reserve", "took", "b/f"]


def test_a_late_success_is_compensated_again(site: Site) -> None:
    own_worker(calling(site))
    service(site)
    result = order(site, timeout=0.3, **FULL).delay(hold=["reserve"], do=["late"])
    header = site.journal.wait(result.id, "reserve")["saga_request"]
    wait_for(lambda: result.progress["stock"] == "COMPENSATING")
    site.journal.open(result.id, "reserve")  # its reply comes before that of the compensation

    with pytest.raises(SagaCompensated, match=r"no reply to the request to 'stock\.reserve'"):
        result.get(timeout=40)
    wait_for(lambda: said(site, result).count("release") == 2)
    assert site.settled(result) == "COMPENSATED"
    reply(site, result, header, "once more")
    taken(site, held=0)
    assert said(site, result).count("release") == 2


def test_a_cancel_closes_an_open_request(site: Site) -> None:
    own_worker(calling(site))
    result = order(site, **FULL).delay()
    wait_for(lambda: result.progress["stock"] == "WAITING")
    assert result.cancel()
    service(site)

    assert site.settled(result) == "COMPENSATED"
    wait_for(lambda: said(site, result).count("release") == 2)  # the request was done all the same
    assert site.settled(result) == "COMPENSATED"


def test_the_service_loses_its_worker(site: Site) -> None:
    """With acks_late and a visibility timeout its own broker delivers the request again."""
    own_worker(calling(site))
    first = service(site)
    result = order(site, timeout=1.0, **FULL).delay(hold=["reserve"])
    site.journal.wait(result.id, "reserve")
    first.kill()
    service(site)

    with pytest.raises(SagaCompensated, match="no reply"):
        result.get(timeout=40)
    assert said(site, result)[-3:] == ["stock/c", "release", "a/c"]


@pytest.mark.parametrize("outcome", ["succeeds", "fails"])
def test_a_lost_reply_is_found_in_the_result_backend_that_both_have(
    site: Site, outcome: str
) -> None:
    own = own_worker(calling(site))
    result = order(site, timeout=8, **FULL).delay(do=[f"reserve {outcome}"])
    wait_for(lambda: result.progress["stock"] == "WAITING")
    own.kill()
    service(site)
    wait_for(lambda: site.queued() == 1)  # the reply
    site.client.delete("celery")
    own_worker(site)

    assert site.settled(result) == ("COMPLETED" if outcome == "succeeds" else "COMPENSATED")
    if outcome == "fails":
        assert "builtins.ValueError: reserve fails" in str(result.failure)


def test_a_task_that_celery_drops_without_a_callback(site: Site) -> None:
    """A revoked task calls no link_error; its state is found where the backend is shared."""
    own_worker(calling(site))
    service(site)
    site.app.control.revoke("order-7~r1~2")
    inspect = site.app.control.inspect(timeout=0.3)
    wait_for(lambda: any(ids for ids in (inspect.revoked() or {}).values()))
    result = order(site, timeout=3, **FULL).apply_async({}, saga_id="order-7")

    assert site.settled(result) == "COMPENSATED"
    assert "TaskRevokedError" in str(result.failure)
