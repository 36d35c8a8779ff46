"""The verbs that act on sagas: retry, skip, resolve, pause, resume, cancel."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_saga.core.views.text import printable
from celery_saga.ops.cli.selection import selection, selection_options
from celery_saga.ops.cli.shared import as_json_option, manager_of, print_json


def _pair(value: Any) -> tuple[str, Any]:
    """``KEY=JSON`` as key and value: the type of an option."""
    key, equals, text = str(value).partition("=")
    if key and equals:
        with contextlib.suppress(ValueError):
            return key, json.loads(text)
    example = "total=30, or card='\"4242\"' with both pairs of quotes"
    raise click.BadParameter(f"expected KEY=JSON, such as {example}; found {value!r}")


def _by_option(group: str) -> Callable[[Any], Any]:
    return click.option(
        "--by",
        cls=CeleryOption,
        metavar="WHO",
        help_group=group,
        help="The operator, for the saga's history; by default user@host.",
    )


def _verb(name: str, help_text: str, *options: Callable[[Any], Any]) -> click.Command:
    """A command that calls the manager's method of that name for each id."""

    def run(ctx: click.Context, saga_ids: tuple[str, ...], as_json: bool, **given: Any) -> None:
        chosen = selection(ctx, name, saga_ids, given)
        _carry_out(ctx, name, chosen, as_json, given)

    group = f"{name.capitalize()} Options"
    decorators = (
        click.argument("saga_ids", nargs=-1, metavar="[ID...]"),
        *selection_options(group),
        _by_option(group),
        as_json_option(group),
        *options,
        click.pass_context,
    )
    run.__doc__ = (
        f"{help_text}\n\n"
        "Give their ids, or --all with filters.\n\n"
        "Exit code: 1 if a saga does not exist, or refuses; nothing of it changed."
    )
    made: Any = run
    for decorate in reversed(decorators):
        made = decorate(made)
    return click.command(name, cls=CeleryCommand)(made)


def _carry_out(
    ctx: click.Context,
    name: str,
    saga_ids: tuple[str, ...],
    as_json: bool,
    given: dict[str, Any],
    *args: Any,
) -> None:
    from celery_saga.errors import SagaError

    manager, results = manager_of(ctx), []
    if "context" in given:
        given["context"] = dict(given["context"])
    for saga_id in saga_ids:
        try:
            handle = getattr(manager, name)(saga_id, *args, **given)
            results.append({"id": saga_id, "status": handle.status.value, "error": ""})
        except (SagaError, ValueError) as error:
            results.append({"id": saga_id, "status": "", "error": str(error)})
    if as_json:
        print_json({"verb": name, "sagas": results})
    for each in () if as_json else results:
        text = f"{each['id']}: {each['error'] or each['status']}"
        click.echo(printable(text), err=bool(each["error"]))
    sys.exit(int(any(each["error"] for each in results)))


VERBS = (
    _verb(
        "retry",
        "Let stuck sagas try again what blocks them.",
        click.option(
            "--set",
            "context",
            cls=CeleryOption,
            multiple=True,
            metavar="KEY=JSON",
            type=_pair,
            help_group="Retry Options",
            help="Set a key of the context first; may be given several times.",
        ),
    ),
    _verb("skip", "What blocks stuck sagas was done by hand: continue with the next step."),
    _verb(
        "resolve",
        "Stuck sagas were settled by hand: say how they ended.",
        click.option(
            "--as",
            "status",
            cls=CeleryOption,
            required=True,
            type=click.Choice(["COMPLETED", "COMPENSATED"], case_sensitive=False),
            help_group="Resolve Options",
            help="How they ended.",
        ),
    ),
    _verb("pause", "Send no further step of these sagas; a step that was sent may end."),
    _verb("resume", "Continue paused sagas where they stopped."),
    _verb(
        "cancel",
        "Compensate sagas, as soon as the running step has ended.",
        click.option(
            "--reason",
            cls=CeleryOption,
            default="cancelled",
            show_default=True,
            help_group="Cancel Options",
            help="In words, for the history.",
        ),
        click.option(
            "--terminate",
            cls=CeleryOption,
            is_flag=True,
            help_group="Cancel Options",
            help="Kill the process that runs the step; the step is compensated with the rest.",
        ),
    ),
)


def _json(ctx: click.Context, option: click.Parameter, text: str | None) -> Any:
    """The value of an option that is JSON."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        raise click.BadParameter(f"expected JSON, found {text!r}") from None


@click.command("signal", cls=CeleryCommand)
@click.argument("saga_id", metavar="ID")
@click.argument("name")
@click.option(
    "--payload",
    cls=CeleryOption,
    metavar="JSON",
    callback=_json,
    help_group="Signal Options",
    help="What the wait puts into the context; by default null.",
)
@_by_option("Signal Options")
@as_json_option("Signal Options")
@click.pass_context
def signal(ctx: click.Context, /, saga_id: str, name: str, as_json: bool, **given: Any) -> None:
    """Send a signal to a saga, which waits for it or will.

    Exit code: 1 if the saga does not exist, or refuses it; nothing of it changed.
    """
    _carry_out(ctx, "signal", (saga_id,), as_json, given, name)
