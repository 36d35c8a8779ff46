"""``celery saga-flower``: Flower with the tab for sagas, for where it is not found by itself."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand


@click.command("saga-flower", cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.argument("tornado_argv", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def saga_flower(ctx: click.Context, tornado_argv: tuple[str, ...]) -> None:
    """Run Flower with a tab for sagas; the options are Flower's."""
    from celery_saga.ops.flower import install

    if not install():
        raise click.UsageError("the tab needs Flower 2: pip install celery-saga-workflow[flower]")
    from flower.command import flower

    ctx.invoke(flower, tornado_argv=tornado_argv)
