"""``celery saga watch``: one saga, until it has settled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_saga.core.views.text import moment, printable
from celery_saga.ops.cli.shared import app_argument, cut, manager_of, report_errors


@click.command(cls=CeleryCommand)
@click.argument("saga_id")
@click.option(
    "--interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help_group="Watch Options",
    help="Seconds between two looks.",
)
@click.pass_context
def watch(ctx: click.Context, saga_id: str, interval: float) -> None:
    """Show a saga until it has settled.

    On a terminal, and if rich is installed, the whole saga is shown anew at each change. Otherwise
    there is a line for each change. Exit code: 0 if it is COMPLETED in the end; 1 if it is
    COMPENSATED or STUCK, does not exist, or cannot be read.
    """
    from celery_saga.core.execution import SagaStatus

    manager, status = manager_of(ctx), None
    with report_errors(), ExitStack() as stack:
        show = _screen(stack) if sys.stdout.isatty() else None
        show = show or _Lines(ctx.obj.echo)
        for seen, now in _looks(manager, saga_id, interval):
            show(seen, now)
            status = seen["status"]
    sys.exit(int(status != SagaStatus.COMPLETED.value))


def _looks(manager: Any, saga_id: str, interval: float) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield a saga's view and the store's time at each change, the first and the last included."""
    from celery_saga.core.views.overview import view

    handle, store, revision = manager.get(saga_id), manager._runtime.store, None
    execution = handle.execution
    while True:
        if execution.revision != revision:
            revision = execution.revision
            yield view(execution, app_argument()), store.now()
        if execution.settled:
            return
        # An end is noticed at once. A saga that was deleted raises.
        execution = store.wait(saga_id, interval) or handle.execution


def _screen(stack: ExitStack) -> Callable[[Mapping[str, Any], float], None] | None:
    """What shows a whole view on the terminal; ``None``: rich is not installed."""
    try:
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        return None
    from celery_saga.ops.cli.views import lines_of

    live = stack.enter_context(Live(auto_refresh=False))
    return lambda seen, now: live.update(Text("\n".join(lines_of(seen, now))), refresh=True)


class _Lines:
    """Prints a line for each status that has changed: of the saga, and of its steps."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._known: dict[str, str] = {}

    def __call__(self, seen: Mapping[str, Any], now: float) -> None:
        of_steps = [
            (f"step {number}", step["step"], step["status"], _error_of(step))
            for number, step in enumerate(seen["steps"])
            if step["status"] != "PENDING"
        ]
        of_saga = ("saga", f"saga {seen['saga']}", seen["status"], seen["cause"])
        for key, name, status, error in (*of_steps, of_saga):
            if self._known.get(key) != status:
                self._known[key] = status
                text = f"{name}: {status}" + (f": {error}" if error else "")
                self._echo(f"{moment(seen['updated_at'])}  {cut(printable(text))}")


def _error_of(step: Mapping[str, Any]) -> str:
    return str(step["compensation_error"] or step["error"])
