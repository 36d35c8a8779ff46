"""Two apps on one database, under the default prefix: each recovers its own sagas alone."""

from __future__ import annotations

import pytest

from celery_saga import Saga
from celery_saga.ops.doctor import diagnose
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.doctoring import of, said

pytestmark = pytest.mark.worker

NEIGHBOUR = "tests.worker.apps.neighbour"

#: Seconds of the server's after which a lost message was checked, by any sweeper.
LOOKED = 7.0


@pytest.fixture
def mailing(site):
    """The other app's saga, in a client of its own."""
    app = site.new_app("neighbour", task_default_queue="mail")
    saga = Saga("mailing", app=app)
    saga.local_step("neighbour.mail", name="mail", inputs=["hold"], on_lost="rerun")
    return saga.commit()


def test_a_worker_recovers_the_sagas_of_its_own_app(site, mailing):
    first = site.worker("-c", "1", app=NEIGHBOUR)
    running = mailing.delay(hold=True)
    site.journal.wait(running.id, "began")
    ours = site.worker("-c", "1")
    wait_for(lambda: "has sagas of other apps under the same saga_key_prefix" in ours.text())
    first.kill()

    lost = mailing.delay(hold=False)
    assert site.client.lpop("mail") is not None
    own = site.saga(("a", late, compensation)).delay(hold=["a/f"])
    site.kill_child(site.journal.wait(own.id, "began"))
    site.journal.wait(own.id, "began", 2)
    site.pass_time(LOOKED)

    assert site.client.llen("mail") == 0
    assert [result.execution.steps[0].lost for result in (running, lost)] == [0, 0]
    assert lost.execution.steps[0].republished == 0
    site.worker(
        "-c", "1", app=NEIGHBOUR
    )  # while the other app's worker still is the one that sweeps
    site.journal.wait(running.id, "began", 2)
    site.journal.open(running.id, "mail")
    site.journal.open(own.id, "a/f")
    assert [site.settled(result) for result in (running, lost, own)] == ["COMPLETED"] * 3
    assert site.journal.began(lost.id) == ["mail/f"]


def test_the_doctor_names_them(site, mailing):
    site.worker("-c", "1", app=NEIGHBOUR)
    assert said(diagnose(mailing.app, timeout=2.0), "apps") == []
    site.worker("-c", "1")

    report = diagnose(site.app, timeout=2.0)

    assert said(report, "apps") == [("warning", "saga_key_prefix")]
    (finding,) = of(report, "apps")
    assert [name.partition(" ")[0] for name in finding.about] == ["neighbour"]
    assert "queue mail" in finding.what
    assert site.url not in finding.what, "no password is shown"
