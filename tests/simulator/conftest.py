"""Says at the end of a test run what the simulator has seen."""

from __future__ import annotations

import pytest

from tests.simulator.simulator import report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    text = report()
    if text:
        terminalreporter.section("simulator")
        terminalreporter.write_line(text)
