"""The outcome of a run as tables, and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.chaos.causes import EXCUSED
from benchmarks.chaos.driver import ENGINES, Options, Outcome, run
from benchmarks.chaos.shapes import SHAPES
from benchmarks.chaos.stage import ChaosError
from benchmarks.chaos.verdict import Verdict

#: Sagas that are shown line by line if something is wrong with them.
SHOWN = 5

#: The verdicts in the order of the table, and whether there may be any.
KINDS = {"completed": True, "compensated": True, "inconsistent": False, "stuck": False}

#: What kinds of faults are called in the table.
FAULTS = {
    "child": "pool process killed",
    "worker": "worker killed",
    "server": "server killed and restarted",
    "stop": "worker stopped and continued",
    "cut": "connections cut",
    "duplicate": "messages duplicated",
    "lose": "messages lost",
    "ended": "worker ended by itself",
}


def add_to(commands: Any) -> None:
    """Add the command to those of ``python -m benchmarks``."""
    parser = commands.add_parser("chaos", help="sagas while processes and servers are killed")
    add = parser.add_argument
    add("--sagas", type=int, default=2000, help="how many (2000)")
    add("--kills", type=int, default=40, help="SIGKILLs; other faults in proportion (40)")
    add("--seed", type=int, default=1, help="of sagas and faults (1)")
    add("--workers", type=int, default=3, help="prefork workers with two processes each (3)")
    add("--in-flight", type=int, default=200, help="sagas in flight at a time (200)")
    add("--engine", choices=ENGINES, default="saga", help="or chains of the same tasks")
    add("--shape", choices=SHAPES, default="linear", help="of the sagas (linear)")
    add("--apart", action="store_true", help="broker and store on a server each")
    add("--json", type=Path, metavar="FILE", help="write the verdicts and all faults there")
    add("--logs", type=Path, metavar="FOLDER", help="keep the workers' logs there")


def main(given: argparse.Namespace) -> int:
    """Run, print, write.

    Returns:
        0 if every saga ended as it was reported, and no effect came twice without a permitted
        cause; 1 if not, or if the run went wrong.
    """
    where = report.machine()
    options = Options(
        sagas=given.sagas,
        kills=given.kills,
        seed=given.seed,
        workers=given.workers,
        in_flight=given.in_flight,
        apart=given.apart,
        engine=given.engine,
        shape=given.shape,
    )
    try:
        outcome = run(options, given.logs, lambda text: print(text, file=sys.stderr, flush=True))
    except ChaosError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if given.json:
        given.json.write_text(json.dumps(to_dict(outcome, where), indent=1) + "\n")
    show(outcome, where)
    return 0 if holds(outcome) else 1


def holds(outcome: Outcome) -> bool:
    """Whether the library kept its promises."""
    return not any(count for _, count, allowed in rows(outcome) if not allowed)


def rows(outcome: Outcome) -> Iterator[tuple[str, int, bool]]:
    """Each figure: what it is, how many, and whether there may be any."""
    verdicts = outcome.verdicts
    kinds = Counter(verdict.kind for verdict in verdicts)
    for kind, allowed in KINDS.items():
        yield kind, kinds[kind], allowed
    yield "false reports", sum(verdict.false for verdict in verdicts), False
    yield "late effects, compensated again", sum(verdict.late for verdict in verdicts), True
    causes: Counter[str] = Counter()
    for verdict in verdicts:
        causes.update(verdict.duplicates)
    for cause in dict.fromkeys((*EXCUSED, "duplicated message", *sorted(causes))):
        yield f"duplicate effects: {cause}", causes[cause], cause in EXCUSED


def to_dict(outcome: Outcome, where: dict[str, Any]) -> dict[str, Any]:
    """All of it as plain data; sagas one by one only where something is wrong."""
    return {
        "machine": where,
        "options": asdict(outcome.options),
        "seconds": outcome.seconds,
        "verdicts": {what: count for what, count, _ in rows(outcome)},
        "waits": _waits(outcome.waits),
        "missed faults": outcome.missed,
        "refused starts": dict(outcome.refusals),
        "faults": [asdict(each) for each in outcome.faults],
        "wrong": [_details(outcome, verdict) for verdict in _wrong(outcome)],
    }


def _waits(waits: Sequence[float]) -> dict[str, float]:
    """Seconds from start to end that half, 99 % and all of the sagas took at most."""
    found = sorted(waits)
    places = {"p50": len(found) // 2, "p99": int(len(found) * 0.99), "max": len(found) - 1}
    return {name: round(found[place], 2) for name, place in places.items()} if found else {}


def _wrong(outcome: Outcome) -> list[Verdict]:
    return [
        verdict
        for verdict in outcome.verdicts
        if verdict.reasons or verdict.false or not set(EXCUSED).issuperset(verdict.duplicates)
    ]


def _details(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    lines = outcome.lines[verdict.order.saga_id]
    return {
        "order": asdict(verdict.order),
        "reported": asdict(verdict.reported),
        "kind": verdict.kind,
        "false": verdict.false,
        "late": verdict.late,
        "reasons": verdict.reasons,
        "duplicates": dict(verdict.duplicates),
        "ledger": [line._asdict() for line in lines],
    }


def show(outcome: Outcome, where: dict[str, Any]) -> None:
    """Print the tables, and the ledger of some sagas with which something is wrong."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=report.FILE_WIDTH)
    console.print(_table("verdicts", rows(outcome)))
    counts = Counter(each.kind for each in outcome.faults)
    console.print(_table("faults", ((text, counts[kind], True) for kind, text in FAULTS.items())))
    for verdict in _wrong(outcome)[:SHOWN]:
        for line in _course(outcome, verdict):
            console.print(line, highlight=False, markup=False)
    console.print(_footer(outcome, where), highlight=False, markup=False)


def _table(title: str, lines: Any) -> Table:
    table = Table("what", title=title, title_justify="left")
    table.add_column("how many", justify="right")
    for what, count, allowed in lines:
        style = "" if allowed else ("red" if count else "green")
        table.add_row(what, f"{count:,}", style=style)
    return table


def _course(outcome: Outcome, verdict: Verdict) -> Iterator[str]:
    order = verdict.order
    reasons = "; ".join([*verdict.reasons, *verdict.duplicates])
    yield f"{order.saga_id} {verdict.reported.status}: {reasons}"
    yield f"  steps {' '.join(order.kinds)}, pivot {order.pivot}, fails {order.fails}"
    for line in outcome.lines[order.saga_id]:
        who = f"process {line.pid} of worker {line.worker}"
        yield f"  {line.at:.3f} {line.direction}{line.step} {line.what} {line.key} {who}"


def _footer(outcome: Outcome, where: dict[str, Any]) -> str:
    options, waits = outcome.options, _waits(outcome.waits)
    servers = "a broker and a store" if options.apart else "one server"
    refused = ", ".join(f"{count} {name}" for name, count in outcome.refusals.items()) or "none"
    load = " ".join(map(str, where["load_before"]))
    took = ", ".join(f"{name} {wait:g} s" for name, wait in waits.items())
    parts = (
        f"{options.sagas} {options.engine}s ({options.shape}), {options.in_flight} at a time",
        f"{options.kills} kills, seed {options.seed}, {options.workers} workers, {servers}",
        f"{outcome.seconds:.0f} s; from the start to the end of a saga {took}",
        f"starts that were refused and repeated: {refused}",
        f"faults that found nothing to hit: {outcome.missed}",
        f"{where['cores']} cores, {where['cpu']}, Python {where['python']}, celery "
        f"{where['celery']}, kombu {where['kombu']}, load before {load}",
    )
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."
