"""The sections of ``python -m benchmarks chain``, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.fleet import Fleet
from benchmarks.results import Options, Section
from benchmarks.sections import context, failure, groups, idle, latency, start, throughput

SECTIONS: dict[str, Callable[[Fleet, Options], Section]] = {
    "throughput": throughput.run,
    "context": context.run,
    "failure": failure.run,
    "groups": groups.run,
    "latency": latency.run,
    "start": start.run,
    "idle": idle.run,
}
