"""``celery -A ... saga doctor`` as a process: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.doctoring import UNHURRIED, Ran
from tests.worker.harness import Journal, Site
from tests.worker.servers import Server, free_port, serving

pytestmark = pytest.mark.worker

DOCTOR_APP, RISKY_APP = "tests.worker.apps.doctor_app", "tests.worker.apps.risky_app"


@pytest.fixture(scope="module")
def durable() -> Iterator[Server]:
    with serving(appendonly="yes", appendfsync="always", requirepass="sesame") as server:
        yield server


@pytest.fixture(scope="module")
def doctor_site(durable: Server, journal: Journal, folder: Path) -> Iterator[Site]:
    """A worker that is well, on a server that keeps everything."""
    site = Site(durable.url(user=":sesame@"), journal, folder)
    site.settings = dict(UNHURRIED)
    try:
        site.worker(app=DOCTOR_APP, worker_soft_shutdown_timeout=5)
        yield site
    finally:
        site.close()


#: Workers of a machine that is busy have time to answer.
WAITING = ("--timeout", "3")


def run(site: Site, *arguments: str, app: str = DOCTOR_APP, **settings: str) -> Ran:
    return Ran(app, *arguments, env=site.environment(**settings))


class TestWell:
    def test_nothing_is_found(self, doctor_site):
        ran = run(doctor_site, *WAITING)

        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("app      doctored, celery_saga ")
        assert "in one write with the store" in ran.out
        assert f"workers  1: {doctor_site.workers[0].name}" in ran.out
        assert ran.out.endswith(f"{len(CHECKS)} checks, nothing found.\n")
        assert "sesame" not in ran.out

    def test_as_json(self, doctor_site):
        ran = run(doctor_site, "--json", *WAITING)

        assert (ran.code, ran.err) == (0, "")
        document = ran.document
        assert (document["schema"], document["exit_code"]) == (1, 0)
        assert document["findings"] == []
        assert document["checks"] == list(CHECKS)
        assert [worker["node"] for worker in document["workers"]] == [doctor_site.workers[0].name]
        assert "sesame" not in ran.out


class TestFindings:
    def test_a_warning_alone_is_not_a_failure(self, doctor_site):
        ran = run(doctor_site, "--json", *WAITING, app=RISKY_APP)

        assert ran.code == 0
        # The worker runs the doctor's app: it knows the tasks of the risky saga, and not the saga.
        assert [each["check"] for each in ran.document["findings"]] == ["early-ack"]
        (finding,) = ran.document["findings"]
        assert finding["about"] == ["tests.worker.apps.doctor_app.operate", "risky/operate"]

    def test_unless_it_is_asked_for(self, doctor_site):
        assert run(doctor_site, "--fail-on", "warning", app=RISKY_APP).code == 1

    def test_findings_that_are_less_bad_are_left_out(self, doctor_site):
        ran = run(doctor_site, "--level", "error", "--fail-on", "warning", "-j", app=RISKY_APP)

        assert (ran.code, ran.document["findings"]) == (1, [])

    def test_an_error_is_a_failure(self, site):
        ran = run(site)

        assert ran.code == 1
        assert "ERROR    [persistence]" in ran.out
        assert "change: server setting appendonly: yes" in " ".join(ran.out.split())

    def test_quiet_leaves_the_rest_out(self, site):
        ran = Ran(DOCTOR_APP, env=site.environment(), before=["--quiet"])

        assert ran.out.startswith("\nERROR    [persistence]")


class TestUnavailable:
    def test_the_broker(self, doctor_site):
        ran = run(doctor_site, "--json", broker_url=f"redis://:sesame@127.0.0.1:{free_port()}/0")

        assert ran.code == 1
        assert ran.said("broker") == [("error", "broker_url")]
        assert ran.document["workers"] is None
        assert "sesame" not in ran.out + ran.err

    def test_the_store(self, doctor_site):
        unreachable = f"redis://:sesame@127.0.0.1:{free_port()}/0"
        ran = run(doctor_site, "--json", *WAITING, saga_store_url=unreachable)

        assert ran.code == 1
        assert ran.said("store") == [("error", "saga_store_url")]
        assert ran.document["sagas"] is None
        assert len(ran.document["workers"]) == 1
        assert "sesame" not in ran.out + ran.err

    def test_both(self, doctor_site):
        unreachable = f"redis://127.0.0.1:{free_port()}/0"
        ran = run(doctor_site, broker_url=unreachable, saga_store_url=unreachable)

        assert ran.code == 2
        assert "Traceback" not in ran.out + ran.err
        assert "workers  not known" in ran.out


class TestCalledWrongly:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--timeout", "soon"), "'soon' is not a valid float"),
            (("--timeout", "0"), "0.0 is not in the range x>0"),
            (("--level", "fatal"), "'fatal' is not one of"),
            (("--sagas", "-1"), "-1 is not in the range"),
            (("everything",), "unexpected extra argument"),
        ],
    )
    def test_an_option(self, site, arguments, text):
        ran = run(site, *arguments)

        assert ran.code == 2
        assert text in ran.err

    def test_an_app_without_a_manager(self, site):
        ran = run(site, app="tests.worker.apps.foreign")

        assert ran.code == 2
        assert "has no saga manager in this process: add 'sagas = SagaManager(app)'" in ran.err


def test_the_example_names_only_true_things(tmp_path):
    """Its server keeps nothing, and no worker of it runs."""
    with EmbeddedValkey() as valkey:
        env = {
            "CELERY_BROKER_URL": valkey.url(0),
            "CELERY_RESULT_BACKEND": valkey.url(1),
            "SHOP_DATABASE": str(tmp_path / "shop.sqlite"),
        }
        ran = Ran("example_project.shop.celery", "--json", env=env)

    assert ran.code == 1
    assert ran.said("persistence") == [("error", "appendonly")]
    assert ran.said("workers") == [("warning", "--queues")]
    assert len(ran.document["findings"]) == 2


class TestTheCommandLine:
    def test_celery_offers_the_group_and_the_group_its_verbs(self):
        offered = subprocess.run(
            [sys.executable, "-m", "celery", "--help"], capture_output=True, text=True, check=True
        )
        assert "Show, repair and examine sagas." in offered.stdout

    def test_celery_does_not_wait_for_what_the_verbs_need(self):
        code = (
            "import json, sys, celery.bin.celery as cli\n"
            "own = [name for name in sys.modules if name.split('.')[0] == 'celery_saga']\n"
            "print(json.dumps(own))\n"
            "assert cli.celery.commands['saga'].commands['doctor']"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

        loaded = set(json.loads(done.stdout))
        # The errors, because Celery makes them out of results only if their module is there.
        allowed = ("celery_saga.errors", "celery_saga.ops.cli")
        assert {name for name in loaded if not name.startswith(allowed)} == {
            "celery_saga",
            "celery_saga._version",
            "celery_saga.core",
            "celery_saga.core.views",
            "celery_saga.core.views.text",
            "celery_saga.ops",
        }

    def test_preload_options_of_an_app(self, site):
        ran = run(site, app="tests.worker.apps.preloading")

        assert "app      doctored" in ran.out
