"""``python -m benchmarks recovery``: how soon sagas continue after a kill; false losses."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from benchmarks.fleet import BenchmarkError
from benchmarks.recovery import calm, kills, poison, report
from benchmarks.report import machine
from celery_saga.testing.embedded import EmbeddedValkey


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("recovery", help="kills, and what does not run a body twice")
    add = parser.add_argument
    add("--kills", type=int, default=200, help="rounded up to tens (200)")
    add("--calm", action="store_true", help="instead: outages and the like that cost no body")
    add("--poison", action="store_true", help="instead: a step that kills its worker each time")
    add("--jobs", type=int, default=4, help="groups of kills at a time (4)")
    add("--seed", type=int, default=1, help="of the moments of the kills (1)")
    add("--json", type=Path, metavar="FILE", help="write all samples there")
    add("--markdown", action="store_true", help="print Markdown, for benchmarks/README.md")


def main(given: argparse.Namespace) -> int:
    """Kill, measure, print, write.

    Returns:
        1 if a saga did not continue, did not end as it must, or a body ran more often than
        necessary; otherwise 0, however long it took.
    """
    where = {**machine(), "server": _server_version()}
    found = report.Found()
    try:
        if given.calm:
            found.calm = calm.run()
        if given.poison:
            found.poison = poison.run()
        if not (given.calm or given.poison):
            found.kills = kills.run(given.kills, given.seed, given.jobs)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if given.json:
        every = {"machine": where, "seed": given.seed, **asdict(found)}
        given.json.write_text(json.dumps(every, indent=1) + "\n")
    report.show(where, found, given.markdown)
    return int(found.extra > 0)


def _server_version() -> str:
    with EmbeddedValkey() as server, closing(redis.Redis.from_url(server.url())) as client:
        return str(client.info("server").get("valkey_version", "?"))
