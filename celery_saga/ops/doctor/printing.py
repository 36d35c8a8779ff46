"""Prints a report as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from celery_saga.ops.doctor import Report
from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.ops.doctor.facts import Facts
from celery_saga.ops.doctor.findings import Finding, Level, listed

#: Colours as Celery's own commands use them.
_COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.INFO: "cyan"}

#: Columns of the labels, and of a line.
_LABEL, _LINE = 9, 100

Style = Callable[..., Any]


def lines(report: Report, style: Style, *, quiet: bool = False) -> Iterator[str]:
    """The report, line by line.

    Args:
        style: colours a text, as ``click.style`` does.
        quiet: the findings alone.
    """
    if not quiet:
        yield from _header(report.facts)
    for finding in report.findings:
        yield ""
        yield from _finding(finding, style)
    if not quiet:
        yield ""
        yield _summary(report)


def _header(facts: Facts) -> Iterator[str]:
    yield from _entry("app", f"{facts.app or '(no name)'}, {_versions(facts)}")
    yield from _entry("store", facts.store.url or facts.store.kind or "none")
    one = ", in one write with the store" if facts.broker.one_write else ""
    yield from _entry("broker", f"{facts.broker.url}{one}")
    nodes = [f"{each.node}{'' if each.engine else ' (no plugin)'}" for each in facts.workers]
    none = "not known" if facts.broker.problem else "none answers"
    yield from _entry("workers", f"{len(nodes)}: {listed(nodes)}" if nodes else none)
    yield from _entry("sagas", _sagas(facts))


def _sagas(facts: Facts) -> str:
    if facts.store.problem:
        return "not known"
    sagas = facts.sagas
    live = f"{'more than ' if sagas.more else ''}{sagas.live} live"
    unreadable = f", {sagas.unreadable} unreadable" if sagas.unreadable else ""
    return f"{live}, {sagas.stuck} stuck, {len(sagas.overdue)} overdue{unreadable}"


def _versions(facts: Facts) -> str:
    return ", ".join(f"{package} {version}" for package, version in facts.versions.items())


def _finding(finding: Finding, style: Style) -> Iterator[str]:
    label = finding.level.value.upper().ljust(_LABEL)
    colour = _COLOURS[finding.level]
    what = f"[{finding.check}] {finding.what}"
    first, *rest = _wrapped(what)
    yield f"{style(label, fg=colour, bold=True)}{first}"
    yield from (f"{' ' * _LABEL}{line}" for line in rest)
    yield from _entry("", f"so: {finding.leads_to}")
    yield from _entry("", f"change: {finding.where} {finding.setting}: {finding.to}")


def _entry(label: str, text: str) -> Iterator[str]:
    for number, line in enumerate(_wrapped(text)):
        yield f"{('' if number else label).ljust(_LABEL)}{line}"


def _wrapped(text: str) -> list[str]:
    width = _LINE - _LABEL
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _summary(report: Report) -> str:
    count = {level: 0 for level in Level}
    for finding in report.findings:
        count[finding.level] += 1
    if not report.findings:
        return f"{len(CHECKS)} checks, nothing found."
    counts = ", ".join(
        f"{number} {level}{'s' if number != 1 and level is not Level.INFO else ''}"
        for level, number in count.items()
        if number
    )
    return f"{len(CHECKS)} checks, {counts}."
