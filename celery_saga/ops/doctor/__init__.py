"""``celery saga doctor``: examines an installation, and reports what should be changed.

The facts are gathered first (:mod:`celery_saga.ops.doctor.collect`), and are plain data
(:mod:`celery_saga.ops.doctor.facts`). Each check is a pure function of them
(:mod:`celery_saga.ops.doctor.checks`), and returns findings
(:mod:`celery_saga.ops.doctor.findings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from celery import Celery

from celery_saga.ops.doctor.checks import CHECKS, Check
from celery_saga.ops.doctor.collect import gather
from celery_saga.ops.doctor.facts import Facts, Worker
from celery_saga.ops.doctor.findings import Finding, Level

#: Of the JSON document; raised when what is in it changes its meaning.
SCHEMA = 1

#: Exit codes.
OK, FAILED, UNREACHABLE = 0, 1, 2


@dataclass(frozen=True)
class Report:
    """The findings of one examination.

    Args:
        facts: what was examined.
        findings: the worst first.
    """

    facts: Facts
    findings: tuple[Finding, ...] = ()

    def exit_code(self, fail_on: Level = Level.ERROR) -> int:
        """2 if neither store nor broker replied, 1 if a finding has this level or worse, else 0."""
        if self.facts.unreachable:
            return UNREACHABLE
        return FAILED if any(each.level.rank <= fail_on.rank for each in self.findings) else OK

    def at_least(self, level: Level) -> Report:
        """This report without findings of lower levels."""
        kept = tuple(each for each in self.findings if each.level.rank <= level.rank)
        return replace(self, findings=kept)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data: the document of ``--json``, see docs/doctor.md."""
        facts = self.facts
        return {
            "schema": SCHEMA,
            "app": facts.app,
            "versions": dict(facts.versions),
            "store": {"url": facts.store.url, "problem": facts.store.problem},
            "broker": {"url": facts.broker.url, "problem": facts.broker.problem},
            "workers": None if facts.broker.problem else list(map(_worker, facts.workers)),
            "sagas": None if facts.store.problem else _sagas(facts),
            "checks": list(CHECKS),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def _worker(worker: Worker) -> dict[str, Any]:
    reported = worker.plugin
    return {
        "node": worker.node,
        "plugin": worker.engine,
        "instance": reported.instance if reported else None,
        "pool": reported.pool if reported else None,
        "versions": dict(reported.versions) if reported else {},
        "queues": sorted(worker.queues),
    }


def _sagas(facts: Facts) -> dict[str, Any]:
    sagas = facts.sagas
    return {
        "live": sagas.live,
        "more": sagas.more,
        "stuck": sagas.stuck,
        "overdue": len(sagas.overdue),
        "unreadable": sagas.unreadable,
    }


def examine(facts: Facts, checks: Mapping[str, Check] = CHECKS) -> Report:
    """Run the checks; the findings are sorted, the worst first."""
    found = [
        replace(finding, check=name) for name, check in checks.items() for finding in check(facts)
    ]
    return Report(facts, tuple(sorted(found, key=lambda finding: finding.level.rank)))


def diagnose(app: Celery, timeout: float = 1.0, limit: int = 200) -> Report:
    """Gather the facts about an app, and examine them.

    Args:
        timeout: seconds that workers have to reply.
        limit: live sagas that are read.

    Raises:
        SetupError: the app has no :class:`~celery_saga.SagaManager` in this process.
    """
    return examine(gather(app, timeout, limit))
