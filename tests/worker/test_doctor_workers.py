"""The doctor and real workers: some that are well, and one for each thing that can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga import Saga
from celery_saga.ops.doctor import Report, diagnose
from celery_saga.ops.doctor.findings import Finding
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.doctoring import UNHURRIED, of
from tests.worker.harness import Journal, Site

pytestmark = pytest.mark.worker

#: Seconds, as in tests/worker/apps/skewed.py, which only a worker may import.
AHEAD = 30.0

#: Name, app module, settings; all with a pool of their own kind, since most need no processes.
FLEET: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("well", "site", ("-c", "1"), {"worker_soft_shutdown_timeout": 5}),
    ("foreign", "foreign", ("--pool", "solo"), {}),
    ("aside", "foreign", ("--pool", "solo", "-Q", "mail"), {}),
    ("twin", "site", ("--pool", "solo"), {}),
    ("twin", "site", ("--pool", "solo"), {}),
    ("ahead", "skewed", ("--pool", "solo"), {}),
    ("older", "older", ("--pool", "solo"), {}),
    ("wordless", "wordless", ("--pool", "solo"), {}),
    ("elsewhere", "site", ("--pool", "solo"), {"saga_key_prefix": "other:"}),
    ("nervous", "site", ("--pool", "solo"), {"saga_heartbeat_ttl": 3.0}),
    (
        "threads",
        "deployed",
        ("--pool", "threads", "-Q", "celery,limited"),
        {"task_default_rate_limit": "900/s"},
    ),
]


@pytest.fixture(scope="module")
def fleet(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    site = Site(valkey.url(14), journal, folder)
    site.settings = dict(UNHURRIED)
    try:
        for name, app, options, settings in FLEET:
            options = (*options, *(("-c", "1") if "-c" not in options else ()))
            site.start("-n", f"{name}@test", *options, app=f"tests.worker.apps.{app}", **settings)
        for worker in site.workers:
            worker.wait_until_ready()
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def sagas(fleet: Site) -> dict[str, Saga]:
    """One saga on its way for each kind of step that does not get on."""
    made = {}
    for name, task, options in [
        ("no worker consumes", "site.newcomer", {"queue": "nowhere"}),
        ("no worker registers", "site.missing", {}),
        ("some register", "site.newcomer", {"countdown": 900}),
        ("is limited", "site.newcomer", {"queue": "limited", "time_limit": 5, "countdown": 900}),
    ]:
        made[name] = Saga(name, app=fleet.app)
        countdown = options.pop("countdown", 0)
        made[name].local_step(task, name="step", inputs=[], **options)
        made[name].commit().apply_async({}, saga_id=name.replace(" ", "-"), countdown=countdown)
    return made


@pytest.fixture(scope="module")
def report(fleet: Site, sagas: dict[str, Saga]) -> Report:
    def complete() -> Report | None:
        found = diagnose(fleet.app, timeout=2)
        recorded = [worker for worker in found.facts.workers if worker.plugin]
        return found if (len(found.facts.workers), len(recorded)) == (len(FLEET), 8) else None

    return wait_for(complete, 60, description="all workers answer")


def about(report: Report, check: str, *names: str) -> list[Finding]:
    """The findings of a check about one of these names."""
    return [found for found in of(report, check) if set(names) & set(found.about)]


def test_every_worker_is_seen_by_itself(report):
    names = sorted(worker.node for worker in report.facts.workers)

    assert names == sorted(f"{name}@test" for name, *_ in FLEET)
    recorded = [worker.plugin.instance for worker in report.facts.workers if worker.plugin]
    assert len(set(recorded)) == len(recorded) == 8


def test_one_that_is_well_is_not_mentioned(report):
    # But as one of those who lack a task, and as one whose version is not that of another.
    elsewhere = {found.check for found in report.findings if "well@test" in found.about}

    assert elsewhere <= {"tasks"}
    (well,) = [worker for worker in report.facts.workers if worker.node == "well@test"]
    assert well.plugin is not None
    assert well.plugin.pool == "prefork"
    assert well.queues == {"celery"}


def test_without_the_plugin(report):
    (finding,) = of(report, "plugin")

    assert finding.level == "error"
    assert finding.about == ("foreign@test", "celery")


def test_two_of_one_name(report):
    (finding,) = of(report, "node-names")

    assert finding.about == ("twin@test",)
    assert "2 workers are named twin@test" in finding.what


def test_a_clock_that_is_ahead(report):
    (finding,) = of(report, "clocks")

    assert finding.about == ("ahead@test",)
    (worker,) = [worker for worker in report.facts.workers if worker.node == "ahead@test"]
    assert worker.plugin is not None
    assert worker.plugin.clock.low <= AHEAD <= worker.plugin.clock.high
    assert "ahead of the store's" in finding.what


def test_an_older_plugin(report):
    mixed, wordless = sorted(of(report, "versions"), key=lambda finding: finding.what)

    assert "0.0.1 in older@test" in mixed.what
    assert "older@test 0.0.1" in mixed.about
    assert wordless.about == ("wordless@test",)


def test_a_worker_that_sends_heartbeats_to_another_store(report):
    (finding,) = about(report, "workers", "elsewhere@test")

    assert (finding.level, finding.setting) == ("error", "saga_store_url")


def test_an_instance_that_does_not_answer(report):
    """It beats, so it counts; which worker it is, is not known."""
    (finding,) = [each for each in of(report, "workers") if each.level == "info"]

    assert "1 worker instance sends heartbeats" in finding.what


def test_a_heartbeat_without_room(report):
    (finding,) = of(report, "heartbeat")

    assert finding.about == ("nervous@test",)


def test_shutdowns_that_cut_off(report):
    (finding,) = of(report, "shutdown")

    assert "twin@test" in finding.about
    assert "well@test" not in finding.about


class TestSagasOnTheirWay:
    def test_a_queue_that_no_worker_consumes(self, report):
        (finding,) = about(report, "queues", "nowhere")

        assert (finding.level, finding.setting) == ("error", "--queues")
        assert "1 live saga needs it" in finding.what

    def test_a_task_that_no_worker_registers(self, report):
        (finding,) = about(report, "tasks", "site.missing")

        assert finding.level == "error"
        assert finding.what.startswith("no worker")

    def test_a_task_that_some_do_not_register(self, report):
        (finding,) = about(report, "tasks", "site.newcomer")

        assert finding.level == "warning"
        assert {"well@test", "ahead@test"} <= set(finding.about)
        assert "threads@test" not in finding.about

    def test_limits_that_the_pool_does_not_enforce(self, report):
        (finding,) = about(report, "limits", "threads@test")

        assert "is limited/step" in finding.about

    def test_they_are_counted(self, report):
        assert report.facts.sagas.live == 4
        assert not report.facts.sagas.more

    def test_no_more_are_read_than_asked_for(self, fleet, sagas):
        found = diagnose(fleet.app, timeout=0.2, limit=2).facts.sagas

        assert (found.live, found.more) == (2, True)


def test_celerys_own_command_asks_the_same(fleet, report):
    answers: Any = fleet.app.control.broadcast(
        "saga", destination=["well@test"], reply=True, limit=1, timeout=5
    )

    answer = answers[0]["well@test"]
    assert set(answer) == {
        "instance",
        "heartbeat",
        "pool",
        "versions",
        "settings",
        "models",
        "clock",
    }
    assert answer["heartbeat"] is True


def test_foreign_workers_are_not_asked_what_they_do_not_know(fleet, report):
    logs = [
        worker.text()
        for worker, (name, *_) in zip(fleet.workers, FLEET, strict=True)
        if name in ("foreign", "aside")
    ]

    assert len(logs) == 2
    assert [text for text in logs if "pidbox command error" in text] == []


class TestNoWorker:
    def test_no_worker_and_no_saga(self, site):
        (finding,) = of(diagnose(site.app, timeout=0.2), "workers")

        assert (finding.level, finding.setting) == ("warning", "--queues")

    def test_no_worker_and_a_saga(self, site):
        saga = Saga("waits", app=site.app)
        saga.local_step("site.missing", name="step", inputs=[])
        saga.commit().delay()

        (finding,) = of(diagnose(site.app, timeout=0.2), "workers")

        assert finding.level == "error"
        assert "1 live saga is blocked" in finding.leads_to

    def test_half_an_answer_is_none(self, site):
        site.worker("--pool", "solo", app="tests.worker.apps.tardy", **UNHURRIED)

        report = diagnose(site.app, timeout=4)

        assert report.facts.workers == ()
        assert [finding.level for finding in of(report, "workers")] == ["info"]

    def test_a_worker_that_is_not_asked(self, site):
        site.worker("--pool", "solo", worker_enable_remote_control=False, **UNHURRIED)
        wait_for(site.alive)

        (finding,) = of(diagnose(site.app, timeout=0.2), "workers")

        assert (finding.level, finding.setting) == ("info", "worker_enable_remote_control")
