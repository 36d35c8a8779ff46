"""The barrier in a Django project: its migration, a web process and a worker."""

from __future__ import annotations

import re

import pytest

from tests.helpers import wait_for

pytestmark = pytest.mark.worker


def test_a_step_that_is_tried_again_after_its_commit(project):
    _, answer = project.get("sale")
    wait_for(lambda: "packed" in project.states(answer["order"])[0], timeout=30)
    (state,) = project.states(answer["order"])
    first, second = re.findall(r"asked \((\w+)\)", state)
    assert first == second
    assert state == f"new, paid, asked ({first}), asked ({first}), packed"


def test_its_compensation(project):
    _, answer = project.get("sale?amount=200")
    wait_for(lambda: "paid back" in project.states(answer["order"])[0], timeout=30)
    assert project.states(answer["order"])[0].count("paid") == 2
