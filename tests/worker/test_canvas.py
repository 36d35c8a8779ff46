"""Sagas in chains, groups, chords and callbacks, as Celery's own tasks stand there."""

from __future__ import annotations

import json
import uuid

import celery
import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult

from celery_saga import DefinitionError, Saga, SagaCompensated, SagaManager, SagaStuck
from celery_saga.errors import SagaExecutionException, SagaNotCommittedException
from tests.helpers import wait_for
from tests.worker.watching import watching

pytestmark = pytest.mark.worker


def alone(result, canvas):
    """The result without its parents, whose errors ``get`` would raise before its own."""
    return AsyncResult(result.id, app=canvas.app)


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

    def test_link_and_root_and_parent(self, canvas, tag, recorded):
        link = [canvas.report.s(tag=tag), group(canvas.report.s(tag=tag), canvas.report.s(tag=tag))]
        result = canvas.counting.s(n=1).apply_async(link=[*link, canvas.report.si("own", tag=tag)])

        assert result.get(timeout=30) == {"n": 3}
        lines = recorded(4)
        assert sorted(map(str, (line["results"] for line in lines))) == sorted(
            map(str, [[{"n": 3}], [{"n": 3}], [{"n": 3}], ["own"]])
        )
        assert {(line["root_id"], line["parent_id"]) for line in lines} == {(result.id, result.id)}

    def test_link_of_one_group(self, canvas, tag, recorded):
        link = group(canvas.report.s(tag=tag), canvas.report.s(tag=tag))
        canvas.counting.s(n=1).apply_async(link=link)
        assert [line["results"] for line in recorded(2)] == [[{"n": 3}]] * 2


class TestChain:
    @pytest.mark.parametrize("place", ["first", "middle", "last"])
    def test_as_a_link(self, canvas, tag, recorded, place):
        one = canvas.context.s({"n": 5, "who": "ann"})
        saga, report = canvas.counting.s(), canvas.report.s(tag=tag)
        links = {
            "first": [canvas.counting.s(n=5, who="ann"), report],
            "middle": [one, saga, report],
            "last": [one, report, saga],
        }
        result = chain(*links[place]).apply_async()

        final = {"n": 5 if place == "last" else 7, "who": "ann"}
        assert recorded()[0]["results"] == [final]
        assert result.get(timeout=30) == {"n": 7, "who": "ann"}

    def test_sagas_in_a_row(self, canvas):
        result = chain(canvas.counting.s(n=1), canvas.counting.s(), canvas.counting.s(x=1))()
        assert result.get(timeout=30) == {"n": 7, "x": 1}

    def test_given_keys_win_over_those_of_the_result_before(self, canvas):
        result = chain(canvas.context.s({"n": 5, "m": 1}), canvas.counting.s(n=1))()
        assert result.get(timeout=30) == {"n": 3, "m": 1}

    def test_none_before_is_nothing(self, canvas):
        assert chain(canvas.context.s(), canvas.counting.s(n=1))().get(timeout=30) == {"n": 3}

    @pytest.mark.parametrize(("value", "kind"), [([1], "list"), (7, "int"), ("text", "str")])
    def test_another_result_before_is_refused(self, canvas, value, kind):
        result = chain(canvas.context.s(value), canvas.counting.s(n=1))()
        with pytest.raises(SagaExecutionException) as caught:
            result.get(timeout=30)
        text = str(caught.value)
        assert "'canvas counting'" in text
        assert f"found {kind}" in text
        assert ".si()" in text

    def test_the_result_before_is_left_out(self, canvas):
        result = chain(canvas.context.s([1]), canvas.counting.si(n=1))()
        assert result.get(timeout=30) == {"n": 3}

    def test_after_a_failed_saga_nothing_is_run(self, canvas, tag, recorded):
        links = [canvas.counting.s(n=1, limit=0), canvas.report.s(tag=tag), canvas.counting.s()]
        result = chain(*links).apply_async(link_error=canvas.complain.s(tag=tag))

        with pytest.raises(SagaCompensated, match="3 is too much"):
            result.get(timeout=30)
        ids = [result.id, result.parent.id, result.parent.parent.id]
        states = [AsyncResult(one, app=canvas.app) for one in ids]
        wait_for(lambda: [one.state for one in states] == ["FAILURE"] * 3)
        (line,) = recorded()
        assert (line["kind"], line["id"]) == ("SagaCompensated", ids[2])

    def test_values_with_types_travel(self, canvas):
        one = uuid.uuid4()
        result = chain(canvas.context.s({"one": one}), canvas.counting.s(n=1, two=one))()
        assert result.get(timeout=30) == {"n": 3, "one": one, "two": one}


class TestFailures:
    def test_typed_errors_and_errbacks_of_both_styles(self, canvas, tag, recorded):
        errbacks = [canvas.complain.s(tag=tag), canvas.report.s(tag=tag)]
        result = canvas.counting.s(n=1, limit=0).apply_async(link_error=errbacks)

        with pytest.raises(SagaCompensated) as caught:
            result.get(timeout=30)
        assert (caught.value.saga_id, caught.value.step) == (result.id, "third")
        lines = recorded(2)
        assert {line.get("kind") for line in lines} == {"SagaCompensated", None}
        (old_style,) = [line for line in lines if "results" in line]
        assert old_style["results"] == [result.id]
        assert old_style["parent_id"] == result.id

    def test_a_stuck_saga_has_failed(self, canvas, tag, recorded):
        errback = canvas.complain.s(tag=tag)
        result = canvas.sticking.s(n=1, limit=0).apply_async(link_error=errback)

        with pytest.raises(SagaStuck, match="will not be compensated"):
            result.get(timeout=30)
        assert recorded()[0]["kind"] == "SagaStuck"

    @pytest.mark.parametrize(
        ("kwargs", "error", "text"),
        [
            ({"saga": "unknown's"}, DefinitionError, r"no saga named \"unknown's\" .*sagas\.py"),
            ({"saga": "canvas twins"}, DefinitionError, "2 different sagas are named 'canvas t"),
            ({"saga": ["a"]}, DefinitionError, r"no saga named \['a'\]"),
            ({"saga": "canvas counting", "context": [1]}, TypeError, "context: expected a mapp"),
            ({"saga": "canvas counting"}, LookupError, "'n'"),
        ],
    )
    def test_what_cannot_be_started_fails_at_once(self, canvas, tag, recorded, kwargs, error, text):
        canvas_error = canvas.complain.s(tag=tag)
        start = canvas.app.signature("celery_saga.start", kwargs=kwargs)
        result = start.apply_async(link_error=canvas_error)

        with pytest.raises(error, match=text):
            result.get(timeout=30)
        assert recorded()[0]["id"] == result.id

    def test_two_that_are_the_same_are_one(self, canvas):
        assert canvas.same[0].s(n=1).delay().get(timeout=30) == {"n": 2}

    def test_a_task_id_that_is_not_a_saga_id(self, canvas):
        result = canvas.counting.s(n=1).apply_async(task_id="order/7")
        with pytest.raises(SagaExecutionException, match=r"task id.* 'canvas counting'.*'order/7'"):
            result.get(timeout=30)


class TestGroupsAndChords:
    def test_a_member_of_a_group(self, canvas):
        members = [canvas.counting.s(n=1), canvas.context.s("task"), canvas.counting.s(n=2)]
        result = group(members).apply_async()
        assert result.get(timeout=30) == [{"n": 3}, "task", {"n": 4}]

    def test_a_group_with_one_that_fails(self, canvas):
        result = group(canvas.counting.s(n=1), canvas.counting.s(n=1, limit=0)).apply_async()
        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        # The one that failed may have been the quicker one.
        wait_for(lambda: [one.state for one in result.results] == ["SUCCESS", "FAILURE"])

    def test_in_the_header_of_a_chord(self, canvas, tag):
        header = [canvas.counting.s(n=1), canvas.context.s("task"), canvas.counting.s(n=2)]
        result = chord(header, canvas.report.s(tag=tag)).apply_async()
        assert result.get(timeout=30) == [{"n": 3}, "task", {"n": 4}]

    def test_as_the_body_of_a_chord(self, canvas):
        result = chord([canvas.context.s(1), canvas.context.s(2)], canvas.counting.si(n=1))()
        assert result.get(timeout=30) == {"n": 3}

    def test_the_results_of_a_header_are_no_context(self, canvas):
        result = chord([canvas.context.s(1), canvas.context.s(2)], canvas.counting.s(n=1))()
        with pytest.raises(SagaExecutionException, match=r"found list; use \.si"):
            result.get(timeout=30)

    def test_a_body_gets_the_sagas_of_the_header_in_order(self, canvas, tag):
        header = [canvas.counting.s(n=n) for n in range(10)]
        result = chord(header, canvas.report.s(tag=tag)).apply_async()
        assert result.get(timeout=30) == [{"n": n + 2} for n in range(10)]

    @pytest.mark.parametrize("which", ["counting", "sticking"])
    def test_a_chord_with_a_saga_that_fails(self, canvas, tag, recorded, which):
        header = [canvas.counting.s(n=1), getattr(canvas, which).s(n=1, limit=0)]
        body = canvas.report.s(tag=tag).on_error(canvas.complain.s(tag=tag))
        result = chord(header, body).apply_async()

        with pytest.raises(ChordError, match="is too much"):
            alone(result, canvas).get(timeout=30)
        assert [line["kind"] for line in recorded()] == ["ChordError"]

    def test_a_start_that_fails_in_a_chord(self, canvas, tag):
        unknown = canvas.app.signature("celery_saga.start", kwargs={"saga": "unknown"})
        result = chord([canvas.counting.s(n=1), unknown], canvas.report.s(tag=tag)).apply_async()
        with pytest.raises(ChordError, match="no saga named 'unknown'"):
            alone(result, canvas).get(timeout=30)

    def test_nested(self, canvas, tag):
        one = chain(canvas.context.si({"n": 3}), canvas.counting.s())
        inner = group(canvas.counting.s(), chain(one, group(canvas.counting.s(), one)))
        links = [canvas.context.s({"n": 1}), inner, canvas.report.s(tag=tag)]
        assert chain(*links).apply_async().get(timeout=30) == [{"n": 3}, [{"n": 7}, {"n": 5}]]

    @pytest.mark.skipif(celery.VERSION < (5, 7), reason="before 5.7 its own tasks hang there too")
    def test_nested_with_a_saga_that_fails(self, canvas, tag):
        inner = group(canvas.counting.s(), chain(canvas.counting.s(limit=0), canvas.counting.s()))
        links = [canvas.context.s({"n": 1}), inner, canvas.report.s(tag=tag), canvas.counting.si()]
        result = chain(*links).apply_async()
        for each in (result, result.parent):
            with pytest.raises(ChordError, match="is too much"):
                alone(each, canvas).get(timeout=30)

    def test_a_chain_of_a_group_with_a_saga(self, canvas, tag):
        both = group(canvas.counting.s(n=1), canvas.context.s(2))
        result = chain(both, canvas.report.s(tag=tag), canvas.context.si("end")).apply_async()
        assert result.get(timeout=30) == "end"

    def test_chains_with_sagas_in_the_header_of_a_chord(self, canvas, tag):
        header = [chain(canvas.context.s({"n": n}), canvas.counting.s()) for n in range(3)]
        result = chord(header, canvas.report.s(tag=tag)).apply_async()
        assert result.get(timeout=30) == [{"n": n + 2} for n in range(3)]

    def test_a_chord_as_a_callback_of_a_saga(self, canvas, tag, recorded):
        after = chord([canvas.context.si(1), canvas.counting.si(n=1)], canvas.report.s(tag=tag))
        canvas.counting.s(n=1).apply_async(link=after)
        assert recorded()[0]["results"] == [[1, {"n": 3}]]


class TestOptions:
    def test_ignored_results_still_call_back(self, canvas, tag, recorded):
        link = canvas.report.s(tag=tag)
        result = canvas.counting.s(n=1).apply_async(ignore_result=True, link=link)
        assert recorded()[0]["results"] == [{"n": 3}]
        saga = manager_of(canvas).get(result.id)
        wait_for(lambda: not saga.execution.result_pending)
        assert not canvas.app.backend.client.exists(f"celery-task-meta-{result.id}")

    def test_a_chord_of_ignored_results(self, canvas, tag):
        header = [canvas.counting.s(n=1).set(ignore_result=True), canvas.context.s(1)]
        result = chord(header, canvas.report.s(tag=tag)).apply_async()
        assert result.get(timeout=30) == [{"n": 3}, 1]

    def test_countdown_and_expires_are_the_start_messages(self, canvas):
        later = canvas.counting.s(n=1).apply_async(countdown=1)
        expired = canvas.counting.s(n=1).apply_async(countdown=2, expires=1)
        assert later.get(timeout=30) == {"n": 3}
        with pytest.raises(Exception, match="expired"):
            expired.get(timeout=30)

    def test_queue_and_priority_are_the_start_messages(self, site):
        site.app.conf.task_queue_max_priority = 10
        site.saga(("a", "any.task"), name="any").s().apply_async(queue="starts", priority=6)
        keys = [key.decode() for key in site.client.scan_iter("starts*")]
        assert keys == ["starts\x06\x166"]
        raw = site.client.lpop(keys[0])
        assert json.loads(raw)["properties"]["priority"] == 6

    def test_callbacks_are_called_as_those_of_a_task(self, site, tag):
        """Ids of parents, inherited priority and stamps: the same for a task and a saga."""
        settings = {"task_inherit_parent_priority": True, "saga_store_step_results": True}
        site.worker(app="tests.worker.apps.functional", **settings)
        seen = []
        for name, kwargs in [
            ("canvas.context", {"value": {"n": 2}}),
            ("celery_saga.start", {"saga": "canvas same", "context": {"n": 1}}),
        ]:
            one = site.app.signature(name, kwargs=kwargs)
            report = site.app.signature("canvas.report", kwargs={"tag": f"{tag} {name}"})
            called = one.apply_async(
                (), link=report, root_id="root", parent_id="parent", priority=4,
                stamped_headers=["monitoring"], monitoring="m-1",
            )  # fmt: skip
            line = json.loads(site.journal.client.blpop([f"recorded:{tag} {name}"], timeout=30)[1])
            seen.append({k: line[k] for k in ("results", "root_id", "priority", "stamps")})
        assert seen[0] == seen[1]
        assert seen[0]["priority"] == 4
        assert seen[0]["root_id"] == "root"
        # They are no children of the step whose process has called them.
        step = AsyncResult(f"{called.id}~f0~1", app=site.app)
        assert step.get(timeout=30) == {"n": 2}
        assert step.children == []


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_on_every_pool(site, tag, pool):
    if pool == "gevent":
        pytest.importorskip("gevent")
    site.worker("-P", pool, "-E", app="tests.worker.apps.functional")

    def start(**context):
        names = {"saga": "canvas counting", "context": context}
        return site.app.signature("celery_saga.start", kwargs=names)

    report = site.app.signature("canvas.report", kwargs={"tag": tag})
    one = chain(start(n=1), start())
    with watching(site.app) as watch:
        done = chord([one, start(n=2)], report).apply_async()
        assert done.get(timeout=30) == [{"n": 5}, {"n": 4}]
        starts = [row.uuid for row in watch.named("celery_saga.start")]
        assert len(starts) == 3
        for saga_id in starts:
            watch.until(saga_id, "SUCCESS")
    failed = chord([one, start(n=2, limit=1)], report).apply_async()
    with pytest.raises(ChordError, match="is too much"):
        AsyncResult(failed.id, app=site.app).get(timeout=30)


class TestSignature:
    def test_what_is_not_a_signature(self, canvas):
        with pytest.raises(SagaNotCommittedException, match=r"call commit\(\)"):
            Saga("draft", app=canvas.app, steps=[canvas.add]).s()
        with pytest.raises(DefinitionError, match=r"Saga\('name'\)"):
            Saga(app=canvas.app, steps=[canvas.add]).commit().s()
        with pytest.raises(ValueError, match=r"context\['x'\]"):
            canvas.counting.s(x=object())
        with pytest.raises(TypeError, match="expected a mapping"):
            canvas.counting.signature([1])

    def test_options(self, canvas):
        one = canvas.counting.signature({"n": 1}, queue="q", priority=3, immutable=True)
        shown = {"kwargsrepr": "{'saga': 'canvas counting', 'context': '<SagaContext>'}"}
        assert (one.options, one.immutable) == ({"queue": "q", "priority": 3, **shown}, True)
        assert one.kwargs == {"saga": "canvas counting", "context": {"n": 1}}
        assert canvas.counting.si(n=1).immutable
        assert repr(canvas.counting.s(n=1)).startswith("celery_saga.start(")

    def test_a_saga_that_is_built_at_run_time_is_not_found_by_workers(self, flows, canvas):
        local = Saga("built here", app=canvas.app, steps=[canvas.add]).commit()
        with pytest.raises(DefinitionError, match="no saga named 'built here'"):
            local.s(n=1).apply_async().get(timeout=30)
