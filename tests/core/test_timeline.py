"""Bars on a line of time: what ran when, and long times without a task that are folded."""

from __future__ import annotations

import pytest

from celery_saga.core.views.timeline import Span, scale_of, spans_of
from celery_saga.ops.flower.format_task import format_task
from tests.core.scenario import Scenario, plan_of


def bar(begun: float, ended: float) -> Span:
    return Span("action", "SUCCEEDED", begun, ended)


class TestScale:
    def test_bars_side_by_side(self) -> None:
        scale = scale_of([bar(100, 101), bar(101, 103)])
        assert [scale.place(at) for at in (100, 101, 102, 103)] == pytest.approx(
            [0, 100 / 3, 200 / 3, 100]
        )
        assert scale.folds == ()

    def test_overlapping_bars(self) -> None:
        scale = scale_of([bar(100, 104), bar(101, 102)])
        assert [scale.place(at) for at in (100, 101, 102, 104)] == pytest.approx([0, 25, 50, 100])

    def test_a_short_pause_has_its_length(self) -> None:
        scale = scale_of([bar(100, 105), bar(105.5, 110)])
        assert scale.folds == ()
        assert scale.place(105.5) == pytest.approx(55)

    def test_a_long_pause_is_folded(self) -> None:
        days = 3 * 86_400.0
        scale = scale_of([bar(100, 105), bar(105 + days, 110 + days)])
        (fold,) = scale.folds
        assert fold.seconds == days
        assert scale.place(105) == pytest.approx(fold.left)
        assert scale.place(105 + days) == pytest.approx(fold.left + fold.width)
        assert fold.width == pytest.approx(100 / 11)
        assert scale.place(110 + days) == pytest.approx(100)

    def test_what_is_outside_is_at_an_edge(self) -> None:
        scale = scale_of([bar(100, 101)])
        assert (scale.place(1), scale.place(1000)) == (0, pytest.approx(100))

    def test_nothing(self) -> None:
        assert scale_of([]).place(7) == 0

    def test_bars_without_length(self) -> None:
        scale = scale_of([bar(100, 100), bar(100, 100)])
        assert scale.place(100) == 0


def spans(script: str, path: tuple[int, ...], later: float = 1.0) -> list[tuple[str, str, float]]:
    """Kind, outcome and seconds of the spans of a step, so many seconds after the last word."""
    played = Scenario.of(plan_of("a b!")).play(script)
    found = spans_of(played.execution, path, played.now + later)
    return [(each.kind, each.outcome, each.ended - each.begun) for each in found]


class TestSpans:
    def test_before_it_is_sent(self) -> None:
        assert spans("start", (1,)) == []

    def test_waits_for_a_worker(self) -> None:
        assert spans("start", (0,), 5.0) == [("queued", "", 5.0)]

    def test_runs(self) -> None:
        assert spans("start, wait 2, f0 claimed", (0,), 5.0) == [
            ("queued", "", 4.0),
            ("action", "RUNNING", 5.0),
        ]

    def test_succeeded(self) -> None:
        assert spans("start, f0 claimed, wait 3, f0 ok", (0,)) == [
            ("queued", "", 1.0),
            ("action", "SUCCEEDED", 5.0),
        ]

    def test_compensated_after_a_failure(self) -> None:
        script = "start, f0 claimed, f0 ok, f1 claimed, f1 fails, c0 claimed, wait 1, c0 ok"
        assert spans(script, (0,))[1:] == [
            ("action", "SUCCEEDED", 1.0),
            ("compensation", "SUCCEEDED", 3.0),
        ]
        assert spans(script, (1,))[-1] == ("action", "FAILED", 1.0)


class Shown:
    """A task as Flower gives it to a formatter."""

    def __init__(self, kwargs: str | None) -> None:
        self.name, self.kwargs = "shop.charge", kwargs


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ("{'saga': 'orders', 'saga_id': '7', 'step': 'pay'}", "shop.charge (orders: pay)"),
        (
            "{'saga': 'orders', 'saga_id': '7', 'step': 'pay', 'compensation': True}",
            "shop.charge (compensates: pay)",
        ),
        ("{'order_id': 7}", "shop.charge"),
        ("{'saga': 'orders', 'saga_id': '7', 'st...", "shop.charge"),
        ("{'at': datetime.date(2026, 1, 1)}", "shop.charge"),
        ("[1]", "shop.charge"),
        ("", "shop.charge"),
        (None, "shop.charge"),
    ],
)
def test_names_of_tasks_in_flowers_own_list(kwargs: str | None, name: str) -> None:
    assert format_task(Shown(kwargs)).name == name
