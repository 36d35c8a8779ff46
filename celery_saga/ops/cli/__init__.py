"""``celery saga ...``: the verbs of the command line.

Celery's command line imports this package each time it starts, whatever it is started for: so what
the verbs need is imported when one of them is called.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from celery.bin.base import handle_preload_options

from celery_saga.ops.cli.check import check
from celery_saga.ops.cli.doctor import doctor
from celery_saga.ops.cli.queries import export, graph, list_sagas, show
from celery_saga.ops.cli.repairs import VERBS, signal
from celery_saga.ops.cli.watch import watch

if "flower" in sys.argv[1:]:  # before Flower's command makes its application
    from celery_saga.ops.flower import install

    install()


@click.group()
@click.pass_context
@handle_preload_options
def saga(ctx: click.Context, **kwargs: Any) -> None:
    """Show, repair and examine sagas."""


for command in (list_sagas, show, watch, export, graph, *VERBS, signal, check, doctor):
    saga.add_command(command)
