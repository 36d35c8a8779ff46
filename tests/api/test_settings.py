"""``Settings.of(app)``: what may be written in a configuration, and what is refused."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import fields
from datetime import timedelta

import pytest
from celery import Celery

from celery_saga import SagaManager, SetupError
from celery_saga.ops.doctor import diagnose
from celery_saga.settings import DEFAULTS, Settings, misspelt
from tests.api.shops import Shop


def new_app(**conf: object) -> Celery:
    app = Celery("settings", broker="memory://", set_as_current=False)
    SagaManager(app)
    app.conf.update(conf)
    return app


def test_defaults():
    assert Settings.of(new_app(result_expires=None)) == Settings(result_expires=0.0)


def test_the_defaults_stand_in_the_configuration():
    app = new_app()
    assert {name: app.conf[name] for name in DEFAULTS} == DEFAULTS


def test_an_app_without_a_manager():
    app = Celery("bare", broker="memory://", set_as_current=False, result_expires=7)
    app.conf.update(result_expires=7)
    assert Settings.of(app) == Settings(result_expires=7.0)


def test_each_is_described():
    text = inspect.cleandoc(Settings.__doc__ or "")  # from Python 3.13 on it is so already
    described = re.findall(r"^    (\w+): .+; ", text, re.MULTILINE)
    assert described == [each.name for each in fields(Settings)]


HOUR = timedelta(hours=1)

#: name -> what is taken, with the value that it has then, and what is refused.
SHAPES: dict[str, tuple[list[tuple[object, object]], list[object]]] = {
    "store_url": ([(None, None), ("redis://h/1", "redis://h/1")], [1, b"redis://h", ["redis://h"]]),
    "key_prefix": ([("", ""), ("shop:", "shop:")], [None, 1, b"saga:"]),
    "result_expires": (
        [(None, 86400.0), (0, 0.0), (60, 60.0), (1.5, 1.5), (HOUR, 3600.0)],
        ["60", -1, True, float("nan"), float("inf"), -HOUR],
    ),
    "max_redeliveries": ([(0, 0), (7, 7)], [None, "3", -1, 2.5, 3.0, True, HOUR]),
    "compensation_max_attempts": ([(None, None), (1, 1)], ["5", 0, -1, 2.5, True]),
    "unknown_task_grace": ([(0, 0.0), (9, 9.0), (HOUR, 3600.0)], [None, "600", -1, False]),
    "store_timeout": ([(0, 0.0), (0.5, 0.5), (HOUR, 3600.0)], [None, "60", -0.1, True, [60]]),
    "heartbeat": (
        [(1, 1.0), (0.05, 0.05), (timedelta(seconds=3), 3.0)],
        [None, "2", 0, -1, True, float("nan"), timedelta(0)],
    ),
    "heartbeat_ttl": ([(9, 9.0), (HOUR, 3600.0)], [None, "6", 0, 2, 2.0, float("inf")]),
    "sweep_limit": ([(1, 1)], [None, "1000", 0, -5, 10.0, True]),
    "context_limit": ([(None, None), (100, 100)], ["100", 0, -1, 1e6, True]),
    "context_inline_limit": ([(0, 0), (100, 100)], [None, "0", -1, 1.5, False]),
    "store_step_results": ([(True, True), (0, False), (1, True)], [None, "true", "", 2, 1.5]),
    "send_events": ([(True, True), (0, False), (1, True)], [None, "true", 2]),
    "remote_timeout": (
        [(5, 5.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)],
        [None, 0, -1, "60", True, float("inf")],
    ),
    "targets": (
        [
            (None, None),
            ({}, {}),
            ({"stock": "stock.reserve"}, {"stock": ("stock.reserve", "")}),
            ({"stock": ("stock.reserve", "q")}, {"stock": ("stock.reserve", "q")}),
            ({"stock": ["stock.reserve", "q"]}, {"stock": ("stock.reserve", "q")}),
        ],
        ["stock", [("a", "b")], {1: "a"}, {"a": 1}, {"a": ""}, {"a": ("b",)}, {"a": ("b", 1)}],
    ),
    "mask_keys": (
        [(None, None), ("iban", ("iban",)), (["a", "b"], ("a", "b")), (("a",), ("a",)), ([], ())],
        ["", 7, [""], [None], ["a", 1], {"a": 1}],
    ),
}
TAKEN = [(name, *pair) for name, (taken, _) in SHAPES.items() for pair in taken]
REFUSED = [(name, value) for name, (_, refused) in SHAPES.items() for value in refused]


def shape_ids(cases: list[tuple[object, ...]]) -> list[str]:
    return [f"{case[0]}={case[1]!r}" for case in cases]


def test_each_setting_has_its_shapes():
    assert SHAPES.keys() == {each.name for each in fields(Settings)}


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN, ids=shape_ids(TAKEN))
def test_taken(name, value, expected):
    found = getattr(Settings.of(new_app(**{f"saga_{name}": value})), name)

    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=shape_ids(REFUSED))
def test_refused(name, value):
    app = new_app(**{f"saga_{name}": value})

    with pytest.raises(SetupError, match=rf"^saga_{name}: expected .+, found .+"):
        Settings.of(app)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, 0.0), (0, 0.0), (60, 60.0), (HOUR, 3600.0), (60.5, 60.5), ("3600", 3600.0), (-1, 0.0)],
)
def test_by_default_results_expire_as_celerys_do(value, expected):
    assert Settings.of(new_app(result_expires=value)).result_expires == expected


def test_a_wrong_one_of_celerys_is_named():
    with pytest.raises(SetupError, match=r"^result_expires: expected seconds"):
        Settings.of(new_app(result_expires="1 day"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("60", "found the str '60'"),
        ("secret", "found a str"),
        (None, "found None"),
        (True, "found True"),
        ([60], "found a list"),
    ],
)
def test_the_text_shows_what_was_found(value, shown):
    with pytest.raises(SetupError) as caught:
        Settings.of(new_app(saga_store_timeout=value))

    assert str(caught.value).endswith(shown)


def test_all_that_are_wrong_are_reported_at_once():
    with pytest.raises(SetupError) as caught:
        Settings.of(new_app(saga_heartbeat=0, saga_sweep_limit="9"))

    assert [part.partition(":")[0] for part in str(caught.value).split("; ")] == [
        "saga_heartbeat",
        "saga_sweep_limit",
    ]


class TestAgain:
    """They are read once, and again when they have changed."""

    def test_once(self):
        app = new_app()
        assert Settings.of(app) is Settings.of(app)

    def test_a_setting_was_changed(self):
        app = new_app()
        assert Settings.of(app).sweep_limit == 1000
        app.conf.saga_sweep_limit = 7
        assert Settings.of(app).sweep_limit == 7
        app.conf.update(saga_context_limit=None, result_expires=5)
        found = Settings.of(app)
        assert (found.context_limit, found.result_expires) == (None, 5.0)

    def test_a_setting_was_changed_under_its_name_in_a_namespace(self):
        app = Celery("spaced", broker="memory://", set_as_current=False)
        SagaManager(app)
        app.config_from_object({"CELERY_SAGA_HEARTBEAT": 3}, namespace="CELERY")
        assert Settings.of(app).heartbeat == 3.0
        app.conf.CELERY_SAGA_HEARTBEAT = 5
        assert Settings.of(app).heartbeat == 5.0

    def test_defaults_were_added(self):
        app = new_app()
        assert Settings.of(app).context_limit == 4 * 1024 * 1024
        app.add_defaults({"saga_context_limit": 10})
        assert Settings.of(app).context_limit == app.conf.saga_context_limit

    def test_the_configuration_was_replaced(self):
        app = new_app()
        assert Settings.of(app).heartbeat == 2.0
        app.config_from_object({"saga_heartbeat": 3}, force=True)
        assert Settings.of(app).heartbeat == 3.0

    def test_a_wrong_one_was_put_right(self):
        app = new_app(saga_heartbeat="often")
        for _ in range(2):
            with pytest.raises(SetupError):
                Settings.of(app)
        app.conf.saga_heartbeat = 1
        assert Settings.of(app).heartbeat == 1.0

    def test_of_two_apps(self):
        one, other = new_app(saga_heartbeat=1), new_app(saga_heartbeat=3)
        assert (Settings.of(one).heartbeat, Settings.of(other).heartbeat) == (1.0, 3.0)


class TestNamespace:
    @pytest.mark.parametrize("namespace", ["CELERY", "celery"])
    def test_it_is_read(self, namespace):
        app = Celery("spaced", broker="memory://", set_as_current=False)
        SagaManager(app)
        word = "SAGA_HEARTBEAT" if namespace.isupper() else "saga_heartbeat"
        app.config_from_object({f"{namespace}_{word}": 4}, namespace=namespace)

        assert Settings.of(app).heartbeat == 4.0
        assert misspelt(app.conf) == {}

    @pytest.mark.parametrize("name", ["CELERY_SAGA_HARTBEAT", "SAGA_HEARTBEAT"])
    def test_one_that_is_not_read(self, name):
        app = Celery("spaced", broker="memory://", set_as_current=False)
        SagaManager(app)
        app.config_from_object({name: 4, "CELERY_TIMEZONE": "UTC"}, namespace="CELERY")

        assert Settings.of(app).heartbeat == 2.0
        assert misspelt(app.conf) == {name: "CELERY_SAGA_HEARTBEAT"}


class TestMisspelt:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("saga_hartbeat", "saga_heartbeat"),
            ("saga_heartbeat_tll", "saga_heartbeat_ttl"),
            ("saga_max_redelivery", "saga_max_redeliveries"),
            ("saga_storeurl", "saga_store_url"),
            ("SAGA_STORE_URL", "saga_store_url"),
        ],
    )
    def test_it_is_found(self, name, nearest, caplog):
        app = new_app(**{name: 1})
        assert misspelt(app.conf) == {name: nearest}

        with caplog.at_level(logging.WARNING, "celery_saga"):
            Settings.of(app)
            Settings.of(app)

        assert [record.getMessage() for record in caplog.records] == [
            f"the setting {name} is unknown and has no effect: is {nearest} meant?"
        ]

    @pytest.mark.parametrize("name", [*DEFAULTS, "saga_of_our_own", "sagas", "heartbeat"])
    def test_others(self, name):
        assert misspelt(new_app(**{name: None}).conf) == {}


class TestDoctor:
    """The doctor finds what a start would refuse, without one."""

    @pytest.mark.parametrize(
        ("name", "value", "level", "named"),
        [
            ("saga_heartbeat", "2", "error", "saga_heartbeat"),
            ("saga_heartbeat_ttl", 2, "error", "saga_heartbeat_ttl"),
            ("saga_store_url", 1, "error", "saga_store_url"),
            ("saga_hartbeat", 1, "warning", "saga_heartbeat"),
        ],
    )
    def test_finds(self, name, value, level, named):
        app = new_app(**{"saga_store_url": "memory://", name: value})
        report = diagnose(app, timeout=0.1)

        found = [each for each in report.findings if each.check in ("settings", "heartbeat")]
        assert [(each.level.value, each.setting, each.about) for each in found] == [
            (level, named, (name,))
        ]
        of_the_store = [each for each in report.findings if each.check == "store"]
        assert len(of_the_store) == (level == "warning"), "it is not asked with wrong settings"


class TestStart:
    """A wrong setting is refused before anything is stored."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [("saga_heartbeat_ttl", 2.0), ("saga_store_timeout", "60"), ("saga_sweep_limit", 0)],
    )
    def test_of_a_saga(self, name, value):
        shop = Shop(**{name: value})

        with pytest.raises(SetupError, match=f"^{name}: expected"):
            shop.started()

        assert shop.ran == []
