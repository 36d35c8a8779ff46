"""Run the benchmarks: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import barrier, recovery, report, siblings
from benchmarks.chaos import report as chaos_report
from benchmarks.fleet import BenchmarkError, Fleet
from benchmarks.results import Options, Section
from benchmarks.sections import SECTIONS
from benchmarks.spy import record


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write.

    Returns:
        0 even if a target is missed, because numbers are not tests; 1 if a run went wrong. What
        ``chaos`` returns is said in :mod:`benchmarks.chaos.report`.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    others = {
        "barrier": _barrier,
        "chaos": chaos_report.main,
        "recovery": recovery.main,
        "siblings": siblings.main,
    }
    if given.command in others:
        return others[given.command](given)
    options = _options(given)
    if min(options.steps) < 2 or options.rounds < 1 or options.sagas < 1:
        parser.error("--steps takes numbers from 2, --rounds and --sagas from 1")
    names = given.section or ([] if given.py_spy else list(SECTIONS))
    where = report.machine()
    try:
        sections = _measure(names, options, where, given.py_spy)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if given.json:
        found = report.to_dict(where, options, sections)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.markdown:
        print(report.markdown(where, options, sections), end="")
    elif sections:
        report.show(where, options, sections)
    return 0


def _barrier(given: argparse.Namespace) -> int:
    rounds = given.rounds or (2 if given.quick else 9)
    transactions = given.transactions or (10 if given.quick else 200)
    where = report.machine()
    section = barrier.measure(rounds, transactions, given.seed)
    conditions = f"Rounds: {rounds}, transactions of each kind in one: {transactions}."
    if given.json:
        found = {"machine": where, "rows": [row.to_dict() for row in section.rows]}
        given.json.write_text(json.dumps({**found, "raw": section.raw}, indent=1) + "\n")
    if given.markdown:
        print(report.markdown_rows(where, section, conditions), end="")
    else:
        report.show_rows(where, section, conditions)
    return 0


def _measure(
    names: list[str], options: Options, where: dict[str, Any], spied: Path | None
) -> list[Section]:
    sections = []
    with Fleet() as fleet:
        for name in dict.fromkeys(names):
            print(f"{name} ...", file=sys.stderr, flush=True)
            sections.append(SECTIONS[name](fleet, options))
        if spied:
            record(fleet, options, spied)
        where["server"] = fleet.server_version
    return sections


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    chaos_report.add_to(commands)
    chain = commands.add_parser("chain", help="sagas against plain chains of the same tasks")
    add = chain.add_argument
    add("--section", nargs="+", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS))
    add("--rounds", type=int, help="how often each thing is measured (9)")
    add("--sagas", type=int, help="runs of 3 steps in a batch; longer ones are fewer (300)")
    add("--steps", type=int, nargs="+", help="lengths in throughput (3 10 30 100)")
    add("--quick", action="store_true", help="everything small, in less than a minute")
    add("--seed", type=int, default=1, help="of the order of variants (1)")
    add("--json", type=Path, metavar="FILE", help="write all samples there")
    add("--markdown", action="store_true", help="print Markdown, for benchmarks/README.md")
    add(
        "--py-spy",
        type=Path,
        metavar="FILE",
        help="record a pool process of the saga's worker, with sagas of the first of --steps: "
        ".svg for a flame graph, .json for speedscope, else collapsed stacks; "
        "alone, it measures nothing",
    )
    alone = commands.add_parser("barrier", help="a transaction with and without a barrier")
    add = alone.add_argument
    add("--rounds", type=int, help="how often each thing is measured (9)")
    add("--transactions", type=int, help="of each kind in a round (200)")
    add("--quick", action="store_true", help="everything small, in a few seconds")
    add("--seed", type=int, default=1, help="of the order of kinds (1)")
    add("--json", type=Path, metavar="FILE", help="write the medians of all rounds there")
    add("--markdown", action="store_true", help="print Markdown, for benchmarks/README.md")
    recovery.add_to(commands)
    siblings.add_to(commands)
    return parser


def _options(given: argparse.Namespace) -> Options:
    quick = given.quick
    return Options(
        rounds=given.rounds or (2 if quick else 9),
        sagas=given.sagas or (24 if quick else 300),
        steps=tuple(given.steps or ((3, 10, 100) if quick else (3, 10, 30, 100))),
        seed=given.seed,
        quick=quick,
    )


if __name__ == "__main__":
    sys.exit(main())
