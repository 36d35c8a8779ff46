"""``celery saga watch``: what is printed while a saga runs, and when it ends."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_saga.core.views.overview import view
from celery_saga.errors import SagaExecutionNotFoundException
from celery_saga.ops.cli import saga
from celery_saga.ops.cli.watch import _looks, _screen
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def watch(shop: Shop, *arguments: str) -> Result:
    context = CLIContext(shop.app, no_color=True, workdir=".")
    return CliRunner().invoke(saga, ["watch", "--interval", "0.05", *arguments], obj=context)


def changes_in(ran: Result) -> list[str]:
    """The lines without their times."""
    return [line.partition("UTC  ")[2] for line in ran.output.splitlines()]


@pytest.mark.parametrize(
    ("fail", "code", "expected"),
    [
        ([], 0, ["take: SUCCEEDED", "pay: SUCCEEDED", "saga orders: COMPLETED"]),
        (
            ["pay"],
            1,
            [
                "take: COMPENSATED",
                "pay: FAILED: builtins.RuntimeError: pay is out of order",
                "saga orders: COMPENSATED: builtins.RuntimeError: pay is out of order",
            ],
        ),
    ],
)
def test_a_saga_that_has_ended(shop: Shop, fail: list[str], code: int, expected: list[str]) -> None:
    ran = watch(shop, shop.started(fail=fail).id)
    assert (ran.exit_code, changes_in(ran)) == (code, expected)


def test_a_stuck_saga_is_an_end_too(shop: Shop) -> None:
    ran = watch(shop, shop.stuck().id)
    assert ran.exit_code == 1
    assert changes_in(ran)[-1].startswith("saga orders: STUCK: its compensation failed")


def test_a_change_is_shown_once_and_the_end_is_noticed(shop: Shop) -> None:
    shop.app.conf.task_always_eager = False
    result = shop.started()
    shop.manager.pause(result)
    looks = _looks(shop.manager, result.id, 0.05)
    seen, _ = next(looks)
    assert seen["status"] == "PAUSED"
    store = shop.manager._runtime.store
    wait = store.wait

    def cancelled_meanwhile(saga_id: str, timeout: float) -> Any:
        assert wait(saga_id, timeout).status == "PAUSED"  # without a change nothing is shown
        shop.manager.cancel(result)
        return wait(saga_id, timeout)

    with mock.patch.object(store, "wait", cancelled_meanwhile):
        assert [each["status"] for each, _ in looks] == ["COMPENSATED"]


def test_an_unknown_id(shop: Shop) -> None:
    ran = watch(shop, "nothing")
    assert ran.exit_code == 1
    assert "nothing" in ran.output


def test_the_screen_shows_the_whole_saga_and_no_value_steers_it(shop: Shop) -> None:
    shop.app.conf.task_always_eager = True
    result = shop.orders.delay(fail=[], title="\x1b[2J[bold]red[/bold]")
    with mock.patch("sys.stdout", StringIO()) as out, ExitStack() as stack:
        show = _screen(stack)
        assert show is not None
        show(view(result.execution, "proj"), result.execution.updated_at)
    text = out.getvalue()
    assert "COMPLETED" in text
    assert "[bold]red[/bold]" in text
    assert "\x1b[2J[bold]" not in text


def test_without_rich_nothing_is_shown_whole() -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args, **options)

    with mock.patch("builtins.__import__", without), ExitStack() as stack:
        assert _screen(stack) is None


def test_a_saga_that_is_deleted_meanwhile(shop: Shop) -> None:
    shop.app.conf.task_always_eager = False
    result = shop.started()
    looks = _looks(shop.manager, result.id, 0.05)
    next(looks)
    shop.manager._runtime.store.delete(result.id)
    with pytest.raises(SagaExecutionNotFoundException):
        next(looks)
