"""Promise 11: a saga's id is started once; ``tests/api/test_taken_ids.py`` has what is compared."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.result import AsyncResult

from celery_saga import SagaAlreadyExists
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker


class TestOneId:
    def test_the_second_call_gets_the_first_saga(self, site):
        saga = site.saga(("a", late))
        first = saga.apply_async({"x": 1}, saga_id="order-7")
        second = saga.apply_async({"x": 1}, saga_id="order-7", on_duplicate="return")

        assert (first.created, second.created) == (True, False)
        with pytest.raises(SagaAlreadyExists, match="began with another context"):
            saga.apply_async({"x": 2}, saga_id="order-7")
        assert not saga.apply_async({}, saga_id="order-7", on_duplicate="return_any").created
        assert second.context == {"x": 1}
        assert site.queued() == 1
        with pytest.raises(SagaAlreadyExists, match=r"'order-7' is taken by a run of saga 'site'"):
            saga.apply_async({}, saga_id="order-7", on_duplicate="raise")
        with pytest.raises(ValueError, match="on_duplicate"):
            saga.apply_async({}, saga_id="order-8", on_duplicate="ignore")

    def test_twenty_threads_at_once_start_one_saga(self, site):
        saga, start = site.saga(("a", late)), threading.Barrier(20)

        def begin(number):
            start.wait()
            given = {"saga_id": "one", "on_duplicate": "return_any"}
            return saga.apply_async({"number": number}, **given)

        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(begin, range(20)))

        assert [result.created for result in results].count(True) == 1
        assert site.queued() == 1
        number = results[0].context.number
        assert results[number].created

    def test_twenty_threads_at_once_start_a_compensated_one_anew_once(self, shared):
        saga = shared.saga(("a", late, compensation), ("b", late), name="anew")
        given = {"saga_id": "order-anew", "on_duplicate": "restart_failed"}
        failed = saga.apply_async({"fail": ["b/f"]}, **given)
        assert shared.settled(failed) == "COMPENSATED"
        start = threading.Barrier(20)

        def begin(_):
            start.wait()
            return saga.apply_async({"fail": []}, **given)

        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(begin, range(20)))

        assert [result.created for result in results].count(True) == 1
        assert shared.settled(results[0]) == "COMPLETED"
        assert AsyncResult("order-anew", app=shared.app).get(timeout=20) == {"fail": []}
        assert shared.journal.began("order-anew") == ["a/f", "b/f", "a/c", "a/f", "b/f"]

    def test_several_processes_at_once_start_one_saga(self, site):
        script = (
            "import sys; from tests.worker.apps.site import app; from tests.worker.apps.steps "
            "import late; from celery_saga import Saga; saga = Saga('s', app=app); "
            "saga.local_step(late); saga.commit(); print('ready', flush=True); "
            "sys.stdin.readline(); print(saga.apply_async({}, saga_id='one').created)"
        )
        env = {**os.environ, "SAGA_TEST_URL": site.url, "PYTHONPATH": str(ROOT)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=30)[0].strip() for process in processes]

        assert sorted(answers) == ["False"] * 5 + ["True"]
        assert site.queued() == 1

    @pytest.mark.parametrize("good", ["a", "A.b_c-9", "x" * 64])
    def test_legal_ids(self, site, good):
        assert site.saga(("a", late)).apply_async({}, saga_id=good).id == good

    @pytest.mark.parametrize("bad", ["", "a~b", "a b", "a/b", "x" * 65, "ü", "a\n", 7])
    def test_illegal_ids(self, site, bad):
        with pytest.raises(ValueError, match="saga_id: expected 1 to 64"):
            site.saga(("a", late)).apply_async({}, saga_id=bad)
        assert site.client.dbsize() == 0
