"""Sagas in chains, groups, chords and callbacks, as Celery's own tasks stand there."""

from __future__ import annotations

import importlib
import json
import uuid

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult

from celery_saga import DefinitionError, Saga, SagaCompensated, SagaManager, SagaStuck
from celery_saga.errors import SagaExecutionException, SagaNotCommittedException
from tests.helpers import wait_for

pytestmark = pytest.mark.worker


@pytest.fixture
def canvas(flows):
    return importlib.import_module("tests.worker.apps.canvas")


@pytest.fixture
def tag():
    return uuid.uuid4().hex


@pytest.fixture
def told(functional_site, tag):
    """What bodies told under this test's tag, once there are so many."""

    def look(count=1, timeout=30):
        def found():
            lines = functional_site.journal.client.lrange(f"told:{tag}", 0, -1)
            return [json.loads(line) for line in lines]

        wait_for(lambda: len(found()) >= count, timeout, description=f"{count} lines: {found()}")
        return found()

    return look


def manager_of(canvas):
    return SagaManager(canvas.app)


class TestAlone:
    def test_its_task_id_is_the_sagas_id_and_its_result_the_final_context(self, canvas):
        result = canvas.counting.s(n=1).apply_async()

        assert result.get(timeout=30) == {"n": 3}
        assert (result.state, result.successful()) == ("SUCCESS", True)
        saga = manager_of(canvas).get(result.id)
        assert saga.get(timeout=30) == {"n": 3}
        assert saga.execution.name == "canvas counting"

    def test_delay_and_call_by_name(self, canvas):
        assert canvas.counting.s(n=1).delay(context={"n": 4}).get(timeout=30) == {"n": 6}
        by_name = canvas.app.send_task(
            "celery_saga.start", kwargs={"saga": "canvas counting", "context": {"n": 2}}
        )
        assert by_name.get(timeout=30) == {"n": 4}

    def test_link_and_root_and_parent(self, canvas, tag, told):
        link = [canvas.tell.s(tag=tag), group(canvas.tell.s(tag=tag), canvas.tell.s(tag=tag))]
        result = canvas.counting.s(n=1).apply_async(link=[*link, canvas.tell.si("own", tag=tag)])

        assert result.get(timeout=30) == {"n": 3}
        lines = told(4)
        assert sorted(map(str, (line["results"] for line in lines))) == sorted(
            map(str, [[{"n": 3}], [{"n": 3}], [{"n": 3}], ["own"]])
        )
        assert {(line["root_id"], line["parent_id"]) for line in lines} == {(result.id, result.id)}

    def test_link_of_one_group(self, canvas, tag, told):
        link = group(canvas.tell.s(tag=tag), canvas.tell.s(tag=tag))
        canvas.counting.s(n=1).apply_async(link=link)
        assert [line["results"] for line in told(2)] == [[{"n": 3}]] * 2


