"""Prints at the end of a test run what the simulator has seen, and which tests took the time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from celery_saga.core.context import masking
from tests import tiers
from tests.durations import lines
from tests.simulator.simulator import TOTALS, report

# The fixtures of all folders with tests on real workers.
from tests.worker.stage import (  # noqa: F401
    canvas,
    flows,
    folder,
    functional_site,
    journal,
    once,
    pools,
    pytest_runtest_makereport,
    recorded,
    servers,
    shared,
    site,
    sites,
    tag,
    valkey,
)

# How long it takes says something of the machine's other load, and nothing of the code.
settings.register_profile("saga", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("saga")


@pytest.fixture(autouse=True)
def mask_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app adds to this process's words to mask is for one test."""
    monkeypatch.setattr(masking, "_words", masking.DEFAULT_MASK_KEYS, raising=False)


# Before pytest itself looks at what -m leaves.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        test = item.nodeid.partition("::")[2]
        if tiers.is_left_to_ci(item.path, tiers.pool_of(item), test):
            item.add_marker(pytest.mark.ci)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # a process of pytest-xdist
        output["simulator"] = TOTALS.plain()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    TOTALS.add(**getattr(node, "workeroutput", {}).get("simulator", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    text = report()
    if text:
        terminalreporter.section("simulator")
        terminalreporter.write_line(text)
    done = [
        each
        for reports in terminalreporter.stats.values()
        for each in reports
        if isinstance(each, pytest.TestReport)
    ]
    for name, value in (
        prop for each in done if each.when == "call" for prop in each.user_properties
    ):
        if name == "architecture":
            terminalreporter.section("architecture")
            terminalreporter.write_line(str(value))
    table = list(lines(done))
    if table:
        terminalreporter.section("durations")
        for line in table:
            terminalreporter.write_line(line)
