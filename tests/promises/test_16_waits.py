"""Promise 16: waits for signals and times on real workers, which are restarted meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from celery_saga import Saga, SagaCompensated, SagaManager, SagaResult
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Site

pytestmark = pytest.mark.worker


def until_it_waits(result: SagaResult, name: str = "approved") -> None:
    wait_for(lambda: result.progress[name] == "WAITING", description=f"a wait for {name}")


def waiting(site: Site, **options: Any) -> Saga:
    saga = Saga("waits", app=site.app)
    saga.local_step(late, name="a").on_failure(compensation)
    saga.wait_for("approved", **options)
    saga.local_step(late, name="b").on_failure(compensation)
    return saga.commit()  # type: ignore[no-any-return]


def manager(site: Site) -> SagaManager:
    """That of another process than the one which has started the saga."""
    return SagaManager(site.new_app("elsewhere"))


def test_a_saga_waits_while_its_worker_is_restarted(site: Site) -> None:
    first = site.worker()
    result = waiting(site).delay()
    until_it_waits(result)
    first.kill()
    site.worker()

    manager(site).signal(result.id, "approved", {"by": "ann"})

    assert result.get(timeout=40)["approved"] == {"by": "ann"}
    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_a_signal_that_is_sent_while_no_worker_runs(site: Site) -> None:
    result = waiting(site).delay()
    manager(site).signal(result.id, "approved", 7)
    site.worker()

    assert result.get(timeout=40)["approved"] == 7
    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_nothing_is_sent_while_it_waits(site: Site) -> None:
    site.worker()
    result = waiting(site).delay()
    until_it_waits(result)

    assert site.queued() == 0
    due: Any = site.client.zscore("saga:due", result.id)
    wait_for(lambda: (site.client.zscore("saga:due", result.id) or 0) > due + 3000)
    result.signal("approved")
    assert site.settled(result) == "COMPLETED"


def test_a_timeout_fails_the_saga(site: Site) -> None:
    site.worker()
    result = waiting(site, timeout=0.2).delay()

    with pytest.raises(SagaCompensated, match=r"was not sent within 0\.2 s"):
        result.get(timeout=40)
    assert site.journal.began(result.id) == ["a/f", "a/c"]


def test_a_timeout_leads_to_its_branch(site: Site) -> None:
    site.worker()
    reminder = Saga("reminder", app=site.app)
    reminder.local_step(late, name="remind").on_failure(compensation)
    result = waiting(site, timeout=0.2, on_timeout=reminder.commit()).delay(fail=["b/f"])

    assert site.settled(result) == "COMPENSATED"
    order = ["a/f", "reminder.remind/f", "b/f", "reminder.remind/c", "a/c"]
    assert site.journal.began(result.id) == order


def test_a_sleep_ends_at_its_time(site: Site) -> None:
    site.worker()
    saga = Saga("sleeps", app=site.app)
    saga.local_step(late, name="a").sleep_step(0.5).local_step(late, name="b")
    result = saga.commit().delay()

    assert site.settled(result) == "COMPLETED"
    a, b = (result.execution.steps[place] for place in (0, 2))
    assert (b.started_at or 0) - (a.ended_at or 0) >= 0.5
