"""What the verbs share: options, and printable text."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryOption

from celery_saga.core.views.text import printable

if TYPE_CHECKING:
    from celery_saga.manager import SagaManager

#: :class:`celery_saga.SagaStatus`, which is not imported for ``celery worker``.
STATUSES = (
    "CREATED",
    "RUNNING",
    "PAUSED",
    "COMPENSATING",
    "COMPLETED",
    "COMPENSATED",
    "STUCK",
)

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

#: Characters of a column; longer values are cut in tables.
_WIDEST = 80


def seconds(value: Any) -> float:
    """The seconds of ``90``, ``90s``, ``15m``, ``2h`` or ``3d``: the type of an option."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
    if match is None:
        raise click.BadParameter(f"expected an age such as 90s, 15m, 2h or 3d, found {value!r}")
    return float(match[1]) * _UNITS[match[2]]


def as_json_option(group: str, text: str = "One JSON document.") -> Callable[[Any], Any]:
    """The option ``--json`` in the help's group of that name; ``text``: what help says of it."""
    option: Callable[[Any], Any] = click.option(
        "-j",
        "--json",
        "as_json",
        cls=CeleryOption,
        is_flag=True,
        help_group=group,
        help=text,
    )
    return option


def manager_of(ctx: click.Context) -> SagaManager:
    """The manager of the app that the command line names.

    Raises:
        click.UsageError: the app keeps no sagas.
    """
    from celery_saga.errors import SetupError
    from celery_saga.manager import SagaManager
    from celery_saga.runtime import runtime_of

    try:
        found = runtime_of(ctx.obj.app).store
    except SetupError as error:
        raise click.UsageError(str(error)) from error
    assert found is not None
    return SagaManager(ctx.obj.app)


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an error of the library, and end the command with the exit code 1."""
    from celery_saga.errors import SagaError

    try:
        yield
    except SagaError as error:
        click.echo(printable(str(error)), err=True)
        sys.exit(1)


def app_argument() -> str:
    """The value of ``-A`` on the command line, for the commands that are proposed."""
    arguments = sys.argv[1:]
    for index, argument in enumerate(arguments):
        if argument in ("-A", "--app") and index + 1 < len(arguments):
            return printable(arguments[index + 1])
        if argument.startswith("--app="):
            return printable(argument.partition("=")[2])
        if argument.startswith("-A") and argument != "-A":
            return printable(argument[2:])
    given = (os.environ.get(name) for name in ("APP", "CELERY_APP"))  # as Celery reads them
    return printable(next(filter(None, given), "proj"))


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document, with the number of its schema."""
    click.echo(json.dumps({"schema": 1, **document}, indent=2))


def cut(text: str) -> str:
    """The printable text, no longer than a column is wide."""
    shown = printable(text)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 3]}..."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with heads; nothing without rows."""
    if not rows:
        return
    cells = [list(heads), *([cut(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()
