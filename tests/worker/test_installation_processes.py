"""Installation as real processes see it: projects, stores, and set-ups that are refused."""

from __future__ import annotations

import importlib

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SetupError
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker


def ends(worker):
    """The exit code of a worker that does not stay."""
    wait_for(lambda: not worker.process.alive, timeout=40)
    return worker.process.returncode


class TestProjects:
    def test_a_manager_that_comes_with_the_imports_of_a_worker(self, site):
        site.worker(app="tests.worker.apps.ready")
        saga = Saga("ready", app=site.app)
        saga.local_step("ready.step", inputs=[])
        result = saga.commit().delay()

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["ready.step/f".rpartition(".")[2]]

    @pytest.mark.parametrize("project", ["discovered", "packaged"])
    def test_sagas_py_is_found_beside_the_tasks(self, site, project):
        worker = site.worker(app=f"tests.worker.apps.{project}")
        assert f"saga:{project}.1.action" in worker.text()

        module = importlib.import_module(f"tests.worker.apps.{project}.sagas")
        module.app.conf.update(broker_url=site.url, result_backend=site.url)
        assert module.doubling.delay(a=1).get(timeout=30) == {"a": 4}
        module.app.close()

    def test_a_process_without_a_manager_gets_the_line_to_add(self):
        from tests.worker.apps import bare

        with pytest.raises(SetupError, match=r"sagas = SagaManager\(app\)"):
            bare.saga.delay()


class TestStores:
    @pytest.mark.parametrize("backend", ["rpc://", "cache+memory://", "disabled://", None])
    def test_a_backend_that_cannot_compare_and_swap_is_refused(self, site, backend):
        app = Celery("other", broker=site.url, backend=backend, set_as_current=False)
        SagaManager(app)

        with pytest.raises(SetupError, match="saga_store_url"):
            Saga("other", app=app, steps=[late]).commit().delay()
        assert site.client.dbsize() == 0

    def test_a_worker_without_a_store_does_not_start(self, site):
        worker = site.start(result_backend="rpc://")

        assert ends(worker) != 0
        assert "saga_store_url" in worker.text()
        assert " ready." not in worker.text()

    def test_a_store_of_its_own_beside_any_result_backend(self, site, valkey):
        """Broker and store in two databases, results nowhere near them."""
        settings = {"result_backend": "rpc://", "saga_store_url": valkey.url(14)}
        site.worker(**settings)
        site.app = site.new_app("other", **settings)
        result = site.saga(("a", late, compensation), ("b", early)).delay(fail=["b/f"])

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "b/f", "a/c"]
        assert not list(site.client.scan_iter("saga:*"))

    def test_a_prefix_of_its_own(self, site):
        worker = site.worker(saga_key_prefix="mine:")
        site.app = site.new_app("other", saga_key_prefix="mine:")
        result = site.saga(("a", late)).delay()

        assert site.settled(result) == "COMPLETED"
        assert not list(site.client.scan_iter("saga:*"))
        worker.kill()  # or its heartbeat would write one of them again
        wait_for(lambda: not worker.process.alive)
        for key in site.client.scan_iter("mine:*"):
            site.client.delete(key)

    def test_a_store_url_of_an_unknown_kind(self, site):
        site.app.conf.saga_store_url = "mongodb://localhost"

        with pytest.raises(SetupError, match="mongodb://"):
            site.saga(("a", late)).delay()

    def test_sagas_in_memory_are_refused_by_a_worker_with_processes(self, site):
        worker = site.start(saga_store_url="memory://")

        assert ends(worker) != 0
        assert "keeps sagas in one process, and the prefork pool has" in worker.text()
        assert " ready." not in worker.text()

    def test_a_worker_that_takes_no_json_is_refused(self, site):
        """It would drop every step, without a word to the saga."""
        worker = site.start(accept_content=["application/x-other"])

        assert ends(worker) != 0
        assert (
            "accept_content = ['application/x-other']: the messages of steps are JSON"
            in worker.text()
        )

    def test_a_memory_broker_is_refused_by_a_worker(self, site):
        """A saga started elsewhere could never reach it."""
        worker = site.start(broker_url="memory://")

        assert ends(worker) != 0
        assert "memory://" in worker.text()
