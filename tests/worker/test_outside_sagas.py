"""Calls of the same tasks outside a saga: the same assertions with the plugin and without it."""

from __future__ import annotations

import pytest
from celery import chain, chord, group

from celery_saga import AbortSaga
from celery_saga.worker.hook import hooked
from tests.worker.apps.outside import ANNOTATIONS, declare, new_app
from tests.worker.harness import Site

pytestmark = pytest.mark.worker

WAYS = ["with", "without"]


@pytest.fixture(scope="module")
def workers(valkey, journal, folder):
    """Two workers of the same tasks, one with SagaManager."""
    sites = {}
    for database, way in zip((1, 14), WAYS, strict=True):
        site = sites[way] = Site(valkey.url(database), journal, folder)
        site.start(app="tests.worker.apps.outside", env={"SAGA_TEST_OUTSIDE": way})
    try:
        for site in sites.values():
            site.workers[0].wait_until_ready()
        yield sites
    finally:
        for site in sites.values():
            site.close()


@pytest.fixture(params=WAYS)
def plugin(request):
    return request.param == "with"


@pytest.fixture
def remote(plugin, workers):
    """The tasks, called by this process and run by a worker."""
    site = workers["with" if plugin else "without"]
    app = new_app(plugin, "around", broker_url=site.url, result_backend=site.url)
    yield declare(app)
    app.close()


@pytest.fixture
def local(plugin):
    """The tasks, run in this process."""
    return declare(new_app(plugin))


def get(result):
    return result.get(timeout=20)


class TestInAWorker:
    def test_a_result_and_an_annotation_with_around(self, remote):
        assert get(remote.add.delay(1, y=2)) == ["annotated", 3]

    def test_a_call_of_its_own(self, remote):
        assert get(remote.loud.delay(1)) == ["loud", 1]
        assert get(remote.class_based.delay(2)) == {"called": 6}

    def test_retries(self, remote):
        assert get(remote.flaky.delay(2)) == 2
        assert get(remote.retrying.delay(3)) == 3

    def test_retries_that_are_exhausted(self, remote):
        with pytest.raises(ValueError, match="not yet"):
            get(remote.flaky.delay(9))

    def test_its_key_is_its_id(self, remote):
        result = remote.keyed.delay()
        assert get(result) == [None, result.id]

    def test_the_request(self, remote):
        result = remote.who.apply_async((1, 2), {"k": 3})
        assert get(result) == {
            "id": result.id,
            "retries": 0,
            "args": [1, 2],
            "kwargs": {"k": 3},
            "direct": False,
            "eager": False,
        }

    def test_recursion_and_direct_calls_of_other_tasks(self, remote):
        assert get(remote.factorial.delay(5)) == 120
        assert get(remote.calls_another.delay(4)) == [True, [4], 24, 5]

    def test_chains_and_chords(self, remote):
        assert get(chain(remote.class_based.s(1), remote.who.s())())["args"] == [{"called": 3}]
        header = group(remote.factorial.s(n) for n in (2, 3))
        assert get(chord(header)(remote.total.s())) == 8

    def test_replace(self, remote):
        assert get(remote.replaced.delay(5)) == ["annotated", 105]

    def test_an_abort_outside_a_saga_is_an_error_like_any_other(self, remote):
        with pytest.raises(AbortSaga, match="try 1"):
            get(remote.aborts.apply_async(retry=False))


class TestInThisProcess:
    def test_direct_calls(self, local):
        assert local.add(1) == 2
        assert local.loud(1) == ["loud", 1]
        assert local.class_based(2) == {"called": 6}
        assert local.factorial(4) == 24
        assert local.who(1)["direct"] is True

    def test_eager_calls(self, local):
        assert local.add.apply((1,)).get() == 2
        assert local.loud.apply((1,)).get() == ["loud", 1]
        assert local.class_based.apply((2,)).get() == {"called": 6}
        assert local.flaky.apply((2,)).get() == 2
        eager = local.who.apply((1,), {"k": 2}, task_id="mine").get()
        assert (eager["id"], eager["kwargs"], eager["eager"]) == ("mine", {"k": 2}, True)

    def test_an_eager_chain(self, local):
        assert chain(local.add.s(1), local.add.s(y=5)).apply().get() == 7


@pytest.mark.parametrize(
    ("annotations", "result", "marked"),
    [
        ("none", 2, None),
        ("dict", 2, "dict"),
        ("star", 2, "star"),
        ("around", ["annotated", 2], None),
        ("around star", ["annotated", 2], None),
        ("call", ["set", 2], None),
        ("object", 2, "by object"),
        ("list", 2, "list"),
        ("path", 2, "by object"),
    ],
)
def test_the_users_annotations_stay_in_force(plugin, annotations, result, marked):
    assert annotations in ANNOTATIONS
    app = new_app(plugin, annotations)
    add = declare(app).add

    assert add(1) == result
    assert add.apply((1,)).get() == result
    assert getattr(add, "marked", None) == marked
    if annotations == "dict":
        assert add.rate_limit == "90/s"
    assert hooked(type(app.tasks["outside.add"])) is plugin
