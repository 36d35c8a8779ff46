"""Branches that end at once on several processes: no report is lost, and each is saved soon."""

from __future__ import annotations

import pytest

from benchmarks.siblings import is_right, measure
from celery_saga.core.retry import SAVE_ATTEMPTS
from celery_saga.testing.embedded import EmbeddedValkey


@pytest.mark.ci
def test_a_hundred_on_four_processes(valkey: EmbeddedValkey) -> None:
    figures = measure(valkey.url(3), branches=100, processes=4)
    assert is_right(figures, 100)
    assert len(figures.attempts) == 100
    assert sum(figures.attempts) > 100, "their saves have not met"
    assert max(figures.attempts) < SAVE_ATTEMPTS
    # One save for the start, one claim and one report of each branch.
    assert figures.execution.revision <= 1 + 2 * 100


def test_ten_on_two_processes(valkey: EmbeddedValkey) -> None:
    figures = measure(valkey.url(3), branches=10, processes=2)
    assert is_right(figures, 10)
    assert max(figures.attempts) < SAVE_ATTEMPTS
