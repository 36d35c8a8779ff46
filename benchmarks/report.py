"""The results as tables for the terminal, Markdown for the README and JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.app import VARIANTS
from benchmarks.fleet import Sample
from benchmarks.results import Options, Row, Section

#: Columns of the table of targets.
COLUMNS = ("what", "compared", "base", "ours", "median [spread]", "floor", "goal", "met")
#: Columns of the table of figures; all but the first four are one step's share.
FIGURES = (
    "what",
    "variant",
    "runs/s",
    "steps/s",
    "main us",
    "pool us",
    "server us",
    "bytes in",
    "bytes out",
    "requests",
    "pool trips",
    "main trips",
    "commands",
)
#: Characters in a line where the output is not a terminal.
FILE_WIDTH = 170
_STYLES = {"goal": "green", "floor": "yellow", "no": "red"}


def machine() -> dict[str, Any]:
    """Where it was measured; the server's version is not known before one runs."""
    return {
        "cpu": _processor(),
        "cores": psutil.cpu_count(),
        "load_before": [round(load, 2) for load in psutil.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in ("celery", "kombu", "redis")},
        "hiredis": _hiredis(),
        "server": "?",
    }


def _hiredis() -> str:
    """Its version, or that it is not installed: all connections are faster with it."""
    try:
        return f"hiredis {version('hiredis')}"
    except PackageNotFoundError:
        return "no hiredis"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def to_dict(where: dict[str, Any], options: Options, sections: Sequence[Section]) -> dict[str, Any]:
    """All that was measured, as plain data."""
    return {
        "machine": where,
        "options": asdict(options),
        "variants": {name: variant.text for name, variant in VARIANTS.items()},
        "sections": {
            section.name: {
                "rows": [row.to_dict() for row in section.rows],
                "batches": [
                    {"what": what, "variant": variant, "samples": [asdict(s) for s in samples]}
                    for what, variant, samples in section.batches
                ],
                "raw": section.raw,
            }
            for section in sections
        },
    }


def show(where: dict[str, Any], options: Options, sections: Sequence[Section]) -> None:
    """Print the tables."""
    console = _console()
    for section in sections:
        if section.batches:
            console.print(table(f"{section.name}: figures, medians", FIGURES, _figures(section)))
    for section in sections:
        console.print(table(section.name, COLUMNS, map(_cells, section.rows)))
    for name, variant in VARIANTS.items():
        console.print(f"[bold]{name}[/bold]: {variant.text}", highlight=False)
    console.print(_footer(where, options), highlight=False, markup=False)
    if options.quick:
        console.print("A quick run shows that it works; its numbers mean nothing.")


def show_rows(where: dict[str, Any], section: Section, conditions: str) -> None:
    """Print one section that needed no worker."""
    console = _console()
    console.print(table(section.name, COLUMNS, map(_cells, section.rows)))
    console.print(f"{_machine(where)}. {conditions}", highlight=False, markup=False)


def markdown_rows(where: dict[str, Any], section: Section, conditions: str) -> str:
    """The same for the README."""
    rows = grid(COLUMNS, [_cells(row) for row in section.rows])
    return f"{_machine(where)}. {conditions}\n\n{rows}\n"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def table(title: str, columns: Sequence[str], lines: Any) -> Table:
    """A table for the terminal; the word in a line's last cell may give it a colour."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < 2 else "right", overflow="fold")
    for line in lines:
        style = _STYLES.get(line[-1], "")
        made.add_row(*line[:-1], f"[{style}]{line[-1]}[/{style}]" if style else line[-1])
    return made


def markdown(where: dict[str, Any], options: Options, sections: Sequence[Section]) -> str:
    """The tables for the README."""
    parts = [_footer(where, options)]
    for section in sections:
        parts.append(f"### {section.name}")
        parts.append(grid(COLUMNS, [_cells(row) for row in section.rows]))
        if section.batches:
            parts.append(grid(FIGURES, _figures(section)))
    return "\n\n".join(parts) + "\n"


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(row: Row) -> list[str]:
    bounds = row.bounds
    limits = ("", "", "")
    if bounds is not None:
        sign = ">=" if bounds.better == "more" else "<="
        floor = "" if bounds.floor is None else f"{sign} {bounds.floor:g}"
        limits = (floor, f"{sign} {bounds.goal:g}", bounds.met(row.median))
    # A parenthesis, because a bracket is markup to rich and a link to Markdown.
    spread = f"{row.median:.2f} ({min(row.values):.2f} to {max(row.values):.2f})"
    return [row.what, row.compared, row.base, row.ours, spread, *limits]


def _figures(section: Section) -> list[list[str]]:
    return [_figure(what, variant, samples) for what, variant, samples in section.batches]


def _figure(what: str, variant: str, samples: Sequence[Sample]) -> list[str]:
    def each(name: str, factor: float = 1.0) -> float:
        return factor * median(sample.per_step(getattr(sample.used, name)) for sample in samples)

    rate = median(sample.rate for sample in samples)
    return [
        what,
        variant,
        f"{rate:,.1f}",
        f"{rate * samples[0].steps:,.0f}",
        *(f"{each(name, 1e6):,.0f}" for name in ("main_cpu", "child_cpu", "server_cpu")),
        *(f"{each(name):,.0f}" for name in ("bytes_in", "bytes_out")),
        *(f"{each(name):.2f}" for name in ("requests", "child_trips", "main_trips", "commands")),
    ]


def place(where: dict[str, Any]) -> str:
    """The machine and the programs in one line."""
    return (
        f"{_machine(where)}, "
        f"celery {where['celery']}, kombu {where['kombu']}, redis-py {where['redis']}, "
        f"{where['hiredis']}, Valkey {where['server']}"
    )


def _footer(where: dict[str, Any], options: Options) -> str:
    return (
        f"{place(where)}. Rounds: {options.rounds}, runs of 3 steps in a batch: {options.sagas}, "
        f"seed {options.seed}."
    )


def _machine(where: dict[str, Any]) -> str:
    load = " ".join(map(str, where["load_before"]))
    return (
        f"{where['cores']} cores, {where['cpu']}, {where['system']}, load before {load}; "
        f"Python {where['python']}"
    )
