"""Which sagas a verb is for: their ids, or all that a filter matches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from celery.bin.base import CeleryOption

from celery_saga.core.views.text import printable
from celery_saga.ops.cli.shared import STATUSES, manager_of, report_errors, seconds

#: The names of the filters, as the manager has them.
_FILTERS = {"in_status": "status", "saga": "saga", "older_than": "older_than", "limit": "limit"}


def selection_options(group: str) -> tuple[Callable[[Any], Any], ...]:
    """The options ``--all``, its filters, ``--dry-run`` and ``--yes``."""

    def option(*names: str, **given: Any) -> Callable[[Any], Any]:
        made: Callable[[Any], Any] = click.option(
            *names, cls=CeleryOption, help_group=group, **given
        )
        return made

    return (
        option(
            "--all",
            "everything",
            is_flag=True,
            help="All sagas that match the filters, in place of ids.",
        ),
        option("--saga", metavar="NAME", help="With --all: runs of the saga of this name."),
        option(
            "--older-than",
            metavar="AGE",
            type=seconds,
            help="With --all: those that have had their status for longer: 90s, 15m, 2h, 3d.",
        ),
        option(
            "--in-status",
            multiple=True,
            type=click.Choice(STATUSES, case_sensitive=False),
            help="With --all: those in this status; by default those to which the verb applies.",
        ),
        option("--limit", type=click.IntRange(min=1), help="With --all: how many at most (1,000)."),
        option("--dry-run", is_flag=True, help="With --all: print their ids, and do nothing."),
        option("-y", "--yes", is_flag=True, help="With --all: do not ask."),
    )


def selection(
    ctx: click.Context, verb: str, saga_ids: tuple[str, ...], given: dict[str, Any]
) -> tuple[str, ...]:
    """Return the ids of the sagas; removes the options of the selection from ``given``.

    Ends the command after a dry run, or if the operator does not confirm.
    """
    everything, dry_run, yes = (given.pop(name) for name in ("everything", "dry_run", "yes"))
    asked = {_FILTERS[name]: given.pop(name) for name in _FILTERS}
    where = {name: value for name, value in asked.items() if value not in (None, ())}
    if not everything:
        if where or dry_run or yes:
            raise click.UsageError("filters, --dry-run and --yes are for --all")
        if not saga_ids:
            raise click.UsageError("Missing argument 'ID...'; or give --all")
        return saga_ids
    if saga_ids:
        raise click.UsageError("give ids or --all, not both")
    with report_errors():
        found = manager_of(ctx).bulk(verb, where=where, dry_run=True).found
    if dry_run:
        for saga_id in found:
            click.echo(printable(saga_id))
        sys.exit(0)
    if found and not yes:
        click.confirm(f"{verb} {len(found)} sagas?", abort=True, err=True)
    return found
