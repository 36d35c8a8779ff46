"""``celery saga list``, ``show``, ``export`` and ``graph``."""

from __future__ import annotations

import json
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_saga.core.views.text import age
from celery_saga.ops.cli.shared import (
    STATUSES,
    app_argument,
    as_json_option,
    manager_of,
    print_json,
    report_errors,
    seconds,
    table,
)


@click.command("list", cls=CeleryCommand)
@click.option(
    "-s",
    "--status",
    "statuses",
    cls=CeleryOption,
    multiple=True,
    type=click.Choice(STATUSES, case_sensitive=False),
    help_group="List Options",
    help="Only sagas in this status; may be given several times.",
)
@click.option(
    "--saga",
    cls=CeleryOption,
    metavar="NAME",
    help_group="List Options",
    help="Only runs of the saga of this name.",
)
@click.option(
    "--older-than",
    cls=CeleryOption,
    metavar="AGE",
    type=seconds,
    help_group="List Options",
    help="Only sagas that have had their status for longer: 90s, 15m, 2h, 3d.",
)
@click.option(
    "--limit",
    cls=CeleryOption,
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help_group="List Options",
    help="How many at most.",
)
@as_json_option("List Options")
@click.pass_context
def list_sagas(
    ctx: click.Context,
    statuses: tuple[str, ...],
    saga: str | None,
    older_than: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """List sagas, those first that changed last.

    Exit code: 1 if the store is unavailable.
    """
    from celery_saga.core.views.overview import brief

    manager = manager_of(ctx)
    with report_errors():
        found = manager.list(statuses or None, saga=saga, older_than=older_than, limit=limit)
        now = manager._runtime.store.now()
    briefs = [brief(execution) for execution in found]
    if as_json:
        print_json({"sagas": briefs})
        return
    rows = [
        (
            *(each[key] for key in ("id", "saga", "status", "step")),
            age(now - each["updated_at"]),
            each["cause"],
        )
        for each in briefs
    ]
    for line in table(("ID", "SAGA", "STATUS", "STEP", "CHANGED", "CAUSE"), rows):
        ctx.obj.echo(line)
    if not rows and not ctx.obj.quiet:
        ctx.obj.echo("no sagas")


@click.command(cls=CeleryCommand)
@click.argument("saga_id")
@as_json_option("Show Options")
@click.pass_context
def show(ctx: click.Context, saga_id: str, as_json: bool) -> None:
    """Show one saga: its steps, its history, its context, and what can be done.

    Values of keys that look like secrets are masked. Exit code: 1 if the saga does not exist, or
    cannot be read.
    """
    from celery_saga.core.views.overview import view
    from celery_saga.ops.cli.views import lines_of

    manager = manager_of(ctx)
    with report_errors():
        seen: dict[str, Any] = view(manager.get(saga_id).execution, app_argument())
        now = manager._runtime.store.now()
    if as_json:
        print_json(seen)
        return
    for line in lines_of(seen, now):
        ctx.obj.echo(line)


@click.command(cls=CeleryCommand)
@click.argument("saga_id")
@click.pass_context
def export(ctx: click.Context, saga_id: str) -> None:
    """Print all of one saga as JSON, as a test can load it: SagaExecution.from_raw.

    Nothing is masked: it holds the whole context. Exit code: 1 if the saga does not exist, or
    cannot be read.
    """
    manager = manager_of(ctx)
    with report_errors():
        raw = manager.get(saga_id).execution.raw
    click.echo(json.dumps(raw, indent=2))


@click.command(cls=CeleryCommand)
@click.argument("saga")
@click.pass_context
def graph(ctx: click.Context, saga: str) -> None:
    """Print a saga as a Mermaid flowchart, by the name of a definition or by the id of a run.

    Of a run the statuses of its steps are in it. Where a definition has the name of an id, the
    definition is printed. Exit code: 1 if there is neither.
    """
    from celery_saga.definition.builder import SAGAS
    from celery_saga.ops.graph import mermaid
    from celery_saga.saga import Saga

    manager = manager_of(ctx)
    with report_errors():
        named = SAGAS.named(saga, importable=False)
        mine = (None, manager.app)
        defined = [each for each in named if isinstance(each, Saga) and each.own_app() in mine]
        if defined:
            text = mermaid(manager._runtime.plans.of(defined[-1]))
        else:
            execution = manager.get(saga).execution
            text = mermaid(execution.plan, execution)
    ctx.obj.echo(text)
