"""Callbacks of ``apply_async`` and of a definition, called by a real worker."""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaManager
from tests.worker.apps.steps import compensation, late

pytestmark = pytest.mark.worker


@pytest.fixture
def saga(functional_site, canvas, tag):
    """Its callbacks write down its end."""
    saga = Saga("called back", app=functional_site.app)
    saga.local_step(late, name="a").on_failure(compensation, max_attempts=1)
    saga.local_step(late, name="b", read_only=True)
    for end in ("completed", "compensated", "stuck"):
        getattr(saga, f"on_{end}")(canvas.report.s(tag=tag, end=end))
    return saga.commit()


ENDS = {"completed": [], "compensated": ["b/f"], "stuck": ["b/f", "a/c"]}


@pytest.mark.parametrize("end", ENDS)
def test_each_end(functional_site, canvas, tag, recorded, saga, end):
    result = saga.apply_async(
        {"fail": ENDS[end]},
        link=canvas.report.s(tag=tag, end="link"),
        link_error=canvas.report.s(tag=tag, end="link_error"),
        countdown=0.1,  # it is a worker that sends its first step
    )
    assert functional_site.settled(result) == end.upper()

    lines = {line["end"]: line for line in recorded(2)}

    link = "link" if end == "completed" else "link_error"
    assert set(lines) == {link, end}
    given = {"fail": []} if end == "completed" else result.id
    assert [line["results"] for line in lines.values()] == [[given], [given]]
    assert {line["root_id"] for line in lines.values()} == {f"{result.id}~f0~1"}
    if end == "stuck":
        SagaManager(functional_site.app).resolve(result.id, "COMPENSATED")
        assert recorded(3)[2]["end"] == "compensated"


def test_a_start_by_message(functional_site, canvas, tag, recorded):
    """The worker's own definition says who is called."""
    started = canvas.heard.s(tag=tag).apply_async(link=canvas.report.s(tag=tag, end="link"))

    ends = sorted(line["end"] for line in recorded(2))

    assert ends == ["completed", "link"]
    assert started.get(timeout=30) == {"tag": tag}
