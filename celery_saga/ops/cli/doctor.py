"""``celery saga doctor``."""

from __future__ import annotations

import json
import sys

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_saga.ops.cli.shared import as_json_option

_LEVELS = ("error", "warning", "info")


@click.command(cls=CeleryCommand)
@click.option(
    "-t",
    "--timeout",
    cls=CeleryOption,
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help_group="Doctor Options",
    help="Seconds that workers have to reply.",
)
@click.option(
    "-l",
    "--level",
    cls=CeleryOption,
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help_group="Doctor Options",
    help="Leave out findings of lower levels.",
)
@click.option(
    "--fail-on",
    cls=CeleryOption,
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="error",
    show_default=True,
    help_group="Doctor Options",
    help="Exit with 1 if a finding has this level, or a worse one.",
)
@click.option(
    "--sagas",
    "limit",
    cls=CeleryOption,
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help_group="Doctor Options",
    help="How many live sagas are read.",
)
@as_json_option("Doctor Options", "One JSON document, see docs/doctor.md.")
@click.pass_context
def doctor(
    ctx: click.Context, timeout: float, level: str, fail_on: str, limit: int, as_json: bool
) -> None:
    """Find settings that lose sagas, and report what to change.

    Exit code: 0 nothing as bad as --fail-on was found; 1 something was; 2 neither the store nor the
    broker could be examined, or the command was called wrongly.
    """
    from celery_saga.errors import SetupError
    from celery_saga.ops.doctor import diagnose
    from celery_saga.ops.doctor.findings import Level
    from celery_saga.ops.doctor.printing import lines

    try:
        report = diagnose(ctx.obj.app, timeout, limit)
    except SetupError as error:
        raise click.UsageError(str(error)) from error
    code = report.exit_code(Level(fail_on.lower()))
    report = report.at_least(Level(level.lower()))
    if as_json:
        document = {**report.to_dict(), "exit_code": code}
        click.echo(json.dumps(document, indent=2))
    else:
        for line in lines(report, ctx.obj.style, quiet=ctx.obj.quiet):
            ctx.obj.echo(line)
    sys.exit(code)
