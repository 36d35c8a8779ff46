"""The limits of a context, and how a large one travels."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga import ContextTooLarge, SagaCompensated
from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.harness import Journal, Site
from tests.worker.servers import Monitor

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def site(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    """One worker for all tests here, with low limits."""
    found = Site(valkey.url(14), journal, folder)
    found.worker(app="tests.worker.apps.large")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGA_TEST_URL", found.url)
        yield found
    found.client.flushdb()
    found.close()


@pytest.fixture
def large(site: Site) -> Any:
    """The worker's app in this process; the settings' module may be imported for another one."""
    module: Any = importlib.import_module("tests.worker.apps.large")
    module.app.conf.update(broker_url=site.url, result_backend=site.url)
    return module


class TestClaimCheck:
    def first_argument(self, site: Site) -> Any:
        """What the message in a queue that no worker consumes has for its only argument."""
        (raw,) = site.client.lrange("unconsumed", 0, -1)  # type: ignore[misc]
        site.client.delete("unconsumed")
        (argument,), kwargs, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
        assert kwargs == {}
        return argument

    def test_a_small_context_is_the_argument(self, site: Site, large: Any) -> None:
        started = large.looking.apply_async({"filled": "z" * 100}, queue="unconsumed")

        found = self.first_argument(site)
        started.cancel()  # its message would be missed, and be sent again
        assert found == {"filled": "z" * 100}

    def test_of_a_large_one_a_reference_travels(self, site: Site, large: Any) -> None:
        started = large.looking.apply_async({"filled": "z" * large.INLINE}, queue="unconsumed")

        found = self.first_argument(site)
        started.cancel()
        assert found == {"saga_context": started.id}

    def test_the_step_sees_all_of_it(self, site: Site, large: Any) -> None:
        result = large.looking.delay(filled="z" * large.INLINE)

        assert result.get(timeout=30)["seen"] == large.INLINE

    def test_a_step_with_all_of_it_writes_what_it_changed(self, site: Site, large: Any) -> None:
        much = ["y" * 100] * (large.LIMIT // 200)
        result = large.looking.apply_async({"much": much}, queue="unconsumed")
        raw = site.client.lrange("unconsumed", 0, -1)[0]  # type: ignore[index]
        site.client.delete("unconsumed")

        with Monitor(site.client) as monitor:  # the start itself wrote all
            site.client.lpush("celery", raw)
            assert result.get(timeout=30)["much"] == much

        sent = [line["command"] for line in monitor.commands if line["client_type"] != "lua"]
        assert 0 < sum(len(each) for each in sent if result.id in each) < large.LIMIT / 4


class TestLimit:
    def test_a_start_with_more_is_refused(self, site: Site, large: Any) -> None:
        context = {"fill_with": 1, "much": "z" * large.LIMIT, "little": 1}
        with pytest.raises(ContextTooLarge) as refused:
            large.filling.apply_async(context, queue="unconsumed")

        text = str(refused.value)
        assert f"context: {large.LIMIT + 4} characters" in text
        assert f"its largest keys are 'much' ({large.LIMIT + 2}), " in text
        assert "saga_context_limit" in text
        assert not site.client.exists("unconsumed")

    def test_none_means_no_limit(self, site: Site, large: Any) -> None:
        context = {"fill_with": 1, "much": "z" * large.LIMIT}
        large.app.conf.saga_context_limit = None
        try:
            large.filling.apply_async(context, queue="unconsumed")
        finally:
            large.app.conf.saga_context_limit = large.LIMIT

        assert site.client.delete("unconsumed") == 1

    def test_a_step_that_returns_more_fails_and_is_compensated(
        self, site: Site, large: Any
    ) -> None:
        result = large.filling.delay(fill_with=large.LIMIT)

        with pytest.raises(SagaCompensated, match="saga_context_limit allows 50000"):
            result.get(timeout=30)

        assert site.journal.began(result.id) == ["fill/f", "fill/c"]
        assert "filled" not in result.context

    def test_what_a_result_replaces_does_not_count(self, site: Site, large: Any) -> None:
        """Both together would be too much; the step that replaces one has not read the other."""
        most = large.LIMIT - 1_000

        result = large.filling.delay(fill_with=most, fill_again_with=most)

        assert result.get(timeout=30)["filled"] == "y" * most

    def test_a_second_step_that_makes_it_too_large(self, site: Site, large: Any) -> None:
        result = large.filling.delay(fill_with=10, fill_again_with=large.LIMIT)

        assert site.settled(result) == "COMPENSATED"

        assert site.journal.began(result.id) == [
            "fill/f", "fill_again/f", "fill_again/c", "fill/c",
        ]  # fmt: skip
        assert result.context["filled"] == "x" * 10
