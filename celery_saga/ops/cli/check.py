"""``celery saga check``."""

from __future__ import annotations

import sys

import click
from celery.bin.base import CeleryCommand

from celery_saga.ops.cli.shared import as_json_option, manager_of, print_json, report_errors, table


@click.command(cls=CeleryCommand)
@as_json_option("Check Options")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Examine whether this code can finish all live sagas: before a deploy, in CI.

    The frozen plan of each live saga is held against the tasks of this app: tasks that are missing,
    parameters that are sent and not taken, and those that are required and not sent.

    Exit code: 1 if something was found, or the store is unavailable.
    """
    from celery_saga.ops.live_plans import check as checked

    manager = manager_of(ctx)
    with report_errors():
        result = checked(manager.app)
    if as_json:
        print_json(result.to_dict())
    else:
        rows = [
            (each.saga, each.step, each.task, str(each.runs), each.example, each.problem)
            for each in result.found
        ]
        for line in table(("SAGA", "STEP", "TASK", "RUNS", "EXAMPLE", "PROBLEM"), rows):
            ctx.obj.echo(line)
        if not rows:
            ctx.obj.echo(f"{result.runs} live sagas: this code can finish them")
    sys.exit(int(bool(result.found)))
