"""Sagas of a Django project: they start when the transaction is committed, or never."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.django.conftest import Project
from tests.helpers import wait_for
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker

DONE = ["new, reserved, charged, done"]


def python(code: str, **env: str) -> str:
    """The output of a script in an interpreter of its own."""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return found.stdout.strip()


class TestRequests:
    def test_committed_it_starts_one_saga(self, project):
        before = project.sagas()
        status, answer = project.get("place")
        assert status == 200
        wait_for(lambda: project.states(answer["order"]) == DONE, timeout=30)
        assert project.sagas() - before == {answer["saga"]}

    def test_a_saga_that_fails_is_compensated(self, project):
        _, answer = project.get("place?amount=200")
        compensated = ["new, reserved, released"]
        wait_for(lambda: project.states(answer["order"]) == compensated, timeout=30)

    def test_rolled_back_it_starts_none(self, project):
        _, first = project.get("place")
        before = project.sagas()
        assert project.get("place?fail=1")[0] == 500
        assert "something after it went wrong" in project.web_log.read_text()
        assert project.states(first["order"] + 1) == []
        assert project.sagas() == before
        _, second = project.get("place")
        assert project.sagas() - before == {second["saga"]}

    def test_a_mistake_is_found_while_the_order_can_be_rolled_back(self, project):
        _, first = project.get("place")
        before = project.sagas()
        assert project.get("place?mistake=1")[0] == 500
        text = project.web_log.read_text()
        assert "context['order_id']: an Order cannot be stored; store its primary key" in text
        assert project.states(first["order"] + 1) == []
        assert project.sagas() == before

    def test_what_is_rolled_back_to_a_savepoint_does_not_start(self, project):
        before = project.sagas()
        _, answer = project.get("place-in-parts")
        assert len(answer["orders"]) == 2
        for order in answer["orders"]:
            wait_for(lambda order=order: project.states(order) == DONE, timeout=30)
        assert len(project.sagas() - before) == 2

    def test_outside_of_a_transaction_it_starts_at_once(self, project):
        before = project.sagas()
        _, answer = project.get("place-outside")
        assert answer["atomic"] is False
        assert len(project.sagas() - before) == 1
        wait_for(lambda: project.states(answer["order"]) == DONE, timeout=30)

    def test_many_requests_in_threads_at_once(self, project):
        before = project.sagas()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: project.get("place")[1], range(24)))
        assert project.sagas() - before == {answer["saga"] for answer in answers}
        for answer in answers:
            wait_for(lambda answer=answer: project.states(answer["order"]) == DONE, timeout=30)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_on_other_pools(valkey, tmp_path, pool):
    found = Project(valkey.url(1), tmp_path)
    try:
        found.worker("-P", pool, "-c", "2")
        for _ in range(3):
            _, answer = found.get("place")
            wait_for(lambda answer=answer: found.states(answer["order"]) == DONE, timeout=30)
    finally:
        found.close()


def test_a_manager_in_app_config_ready(valkey, tmp_path):
    found = Project(valkey.url(2), tmp_path, in_ready=True)
    try:
        found.worker("-c", "2")
        for query, state in (("", DONE), ("?amount=200", ["new, reserved, released"])):
            _, answer = found.get(f"place{query}")
            wait_for(
                lambda answer=answer, state=state: found.states(answer["order"]) == state,
                timeout=30,
            )
    finally:
        found.close()


def test_in_djangos_own_test_cases():
    eager = '{"CELERY_TASK_ALWAYS_EAGER": true, "CELERY_SAGA_STORE_URL": "memory://"}'
    found = subprocess.run(
        [sys.executable, "-m", "django", "test", "tests.django.orders.tests"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "tests.django.project.settings",
            "SAGA_TEST_SETTINGS": eager,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Ran 10 tests" in found.stderr, found.stderr
    assert found.returncode == 0, found.stderr


class TestWithoutDjango:
    """In a process of its own, as this one may have imported Django."""

    START = (
        "from celery import Celery\n"
        "from celery_saga import Saga, SagaManager, SetupError\n"
        "app = Celery('shop', set_as_current=False)\n"
        "SagaManager(app, storage='memory://')\n"
        "app.conf.task_always_eager = True\n"
        "@app.task(shared=False)\n"
        "def step(): print('ran')\n"
        "saga = Saga('s', steps=[step]).commit()\n"
    )
    ASK = "try: saga.delay_on_commit()\nexcept SetupError as error: print(error)\n"

    def test_it_is_not_installed(self):
        said = python("import sys; sys.modules['django'] = None\n" + self.START + self.ASK)
        assert said.startswith("delay_on_commit() is for Django, which is not installed here: use ")
        assert "celery-saga-workflow[django]" in said
        assert "ran" not in said

    def test_all_else_works_without_it(self):
        code = "import sys; sys.modules['django'] = None\n" + self.START
        assert python(code + "print(saga.delay().status)") == "ran\nCOMPLETED"

    def test_it_is_not_configured(self):
        said = python(self.START + self.ASK)
        assert said.startswith("delay_on_commit() needs Django's settings and database in this ")
        assert "DJANGO_SETTINGS_MODULE" in said

    def test_it_has_no_database(self):
        code = "from django.conf import settings; settings.configure()\n" + self.START + self.ASK
        said = python(code)
        assert said.startswith("delay_on_commit() needs Django's settings and database in this ")
        assert "ran" not in said
