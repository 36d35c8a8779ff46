"""What the doctor prints, its JSON document and its exit code."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import click
import pytest

from celery_saga.ops.doctor import SCHEMA, examine
from celery_saga.ops.doctor.checks import CHECKS
from celery_saga.ops.doctor.collect.bounded import NoAnswer, within
from celery_saga.ops.doctor.collect.servers import once, shown
from celery_saga.ops.doctor.facts import Offset, Sagas, Server
from celery_saga.ops.doctor.findings import Level
from celery_saga.ops.doctor.printing import lines
from tests.ops.installations import OK, URL, VERSIONS, facts_with, on, server, worker, workers

NOTHING_KEPT = on(server(appendonly="no"))
EVERY_SECOND = on(server(appendfsync="everysec"))
FROM_MEMORY = on(server(appendonly="no", save="900 1"))
UNREACHABLE = facts_with(store_problem="refused", broker_problem="refused", workers=())


def plain(text, **style):
    return text


def printed(report, **options):
    return "\n".join(lines(report, plain, **options))


class TestExitCode:
    @pytest.mark.parametrize(
        ("facts", "codes"),
        [
            (OK, (0, 0, 0)),
            (EVERY_SECOND, (0, 0, 1)),
            (FROM_MEMORY, (0, 1, 1)),
            (NOTHING_KEPT, (1, 1, 1)),
            (UNREACHABLE, (2, 2, 2)),
        ],
        ids=["ok", "info", "warning", "error", "unreachable"],
    )
    def test_is_as_bad_as_the_worst_finding(self, facts, codes):
        report = examine(facts)

        assert tuple(map(report.exit_code, (Level.ERROR, Level.WARNING, Level.INFO))) == codes

    @pytest.mark.parametrize("problem", ["store_problem", "broker_problem"])
    def test_one_of_the_two_can_be_examined(self, problem):
        assert examine(facts_with(**{problem: "refused"})).exit_code() == 1


def test_less_bad_findings_can_be_left_out():
    mixed = replace(OK, servers=(server(appendonly="no", maxmemory_policy="allkeys-lru"),))
    report = examine(mixed)

    assert [each.level for each in report.findings] == [Level.ERROR, Level.INFO]
    assert [each.level for each in report.at_least(Level.WARNING).findings] == [Level.ERROR]


class TestDocument:
    def test_of_an_installation_without_findings(self):
        assert examine(OK).to_dict() == {
            "schema": SCHEMA,
            "app": "shop",
            "versions": VERSIONS,
            "store": {"url": URL, "problem": ""},
            "broker": {"url": URL, "problem": ""},
            "workers": [
                {
                    "node": "w1@a",
                    "plugin": True,
                    "instance": "instance1",
                    "pool": "prefork",
                    "versions": VERSIONS,
                    "queues": ["celery"],
                }
            ],
            "sagas": {"live": 3, "more": False, "stuck": 0, "overdue": 0, "unreadable": 0},
            "checks": list(CHECKS),
            "findings": [],
        }

    def test_of_a_finding(self):
        document = json.loads(json.dumps(examine(EVERY_SECOND).to_dict()))

        (finding,) = document["findings"]
        assert finding["level"] == "info"
        assert finding["check"] == "persistence"
        assert finding["where"] == "server setting"
        assert finding["setting"] == "appendfsync"
        assert finding["about"] == [URL]
        assert set(finding) == {
            *("level", "check", "what", "leads_to", "where", "setting", "to", "about")
        }

    def test_what_could_not_be_examined_is_null(self):
        document = examine(UNREACHABLE).to_dict()

        assert (document["workers"], document["sagas"]) == (None, None)

    def test_a_worker_that_reports_nothing(self):
        document = examine(workers(worker(plugin=None))).to_dict()

        assert document["workers"][0]["instance"] is None


class TestPrinted:
    def test_without_findings(self):
        text = printed(examine(OK))

        assert text.splitlines()[:5] == [
            "app      shop, celery_saga 1.2.0, celery 5.7.0, kombu 5.7.0, python 3.12.1",
            f"store    {URL}",
            f"broker   {URL}, in one write with the store",
            "workers  1: w1@a",
            "sagas    3 live, 0 stuck, 0 overdue",
        ]
        assert text.endswith(f"\n\n{len(CHECKS)} checks, nothing found.")

    def test_a_finding(self):
        text = printed(examine(EVERY_SECOND), quiet=True)

        assert text == (
            "\n"
            f"INFO     [persistence] the server of store and broker {URL} writes to disk\n"
            "         once a second (appendfsync everysec)\n"
            "         so: a power loss can forget the last second: steps run again with the same "
            "key, and a saga\n"
            "         that was created in it can vanish\n"
            "         change: server setting appendfsync: always, if that must not be"
        )

    def test_it_is_counted(self):
        mixed = replace(OK, servers=(server(appendonly="no", maxmemory_policy="allkeys-lru"),))

        assert printed(examine(mixed)).endswith(f"{len(CHECKS)} checks, 1 error, 1 info.")

    def test_what_is_not_known_is_not_said(self):
        text = printed(examine(UNREACHABLE))

        assert "workers  not known" in text
        assert "sagas    not known" in text

    def test_more_sagas_than_were_read(self):
        text = printed(examine(facts_with(sagas=Sagas(live=200, more=True, stuck=2))))

        assert "sagas    more than 200 live, 2 stuck" in text

    def test_levels_have_colours(self):
        text = "\n".join(lines(examine(NOTHING_KEPT), click.style))

        assert click.style("ERROR    ", fg="red", bold=True) in text

    def test_no_line_is_too_long(self):
        for facts in (OK, NOTHING_KEPT, UNREACHABLE, EVERY_SECOND):
            assert max(map(len, printed(examine(facts)).splitlines())) <= 100


class TestServers:
    def test_two_addresses_of_one_server_are_one(self):
        store = Server("redis://a/1", ("store",), "run1", {}, {"role": "master"}, "NOPERM")
        broker = Server("redis://b/0", ("broker",), "run1", {"save": ""}, {"role": "master"})

        assert once([store, broker]) == (
            Server("redis://a/1", ("store", "broker"), "run1", {"save": ""}, {"role": "master"}),
        )

    def test_two_servers_are_two(self):
        found = once([server("store"), replace(server("broker"), run_id="run2")])

        assert [each.roles for each in found] == [("store",), ("broker",)]

    def test_a_server_that_shows_nothing_is_identified_by_its_address(self):
        silent = Server("redis://a/0", ("store",), refused="NOPERM")

        assert len(once([silent, replace(silent, roles=("broker",))])) == 1

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("redis://:secret@h:1/2", "redis://:**@h:1/2"),
            ("amqp://u:secret@a//;amqp://u:secret@b//", "amqp://u:**@a//;amqp://u:**@b//"),
            ("redis+socket:///tmp/s?password=secret&virtual_host=1", "redis+socket:///tmp/s"),
            ("rediss://u:secret@h/0?ssl_keyfile=k", "rediss://u:**@h/0"),
            (["redis://:secret@h/0"], "redis://:**@h/0"),
            (None, ""),
        ],
    )
    def test_passwords_are_not_shown(self, url, expected):
        assert shown(url) == expected


class TestOffset:
    def test_a_clock_is_known_as_well_as_its_answer_was_quick(self):
        assert Offset.measured(110.0, 100.0, 101.0) == Offset(9.0, 10.0)

    @pytest.mark.parametrize(
        ("offset", "least"),
        [(Offset(-1, 1), 0), (Offset(2, 3), 2), (Offset(-3, -2), 2), (Offset(0, 9), 0)],
    )
    def test_it_is_off_by_what_is_certain(self, offset, least):
        assert offset.least == least

    def test_two_clocks(self):
        assert Offset(9, 10).since(Offset(4, 6)) == Offset(3, 6)


class TestAnswerTimeout:
    def test_an_answer(self):
        assert within(5, lambda: 7) == 7
        assert within(5, lambda: None) is None

    def test_an_error_is_raised_here(self):
        with pytest.raises(ZeroDivisionError):
            within(5, lambda: 1 / 0)

    def test_no_answer(self):
        gate = threading.Event()

        with pytest.raises(NoAnswer, match=r"no answer within 0.01 seconds"):
            within(0.01, gate.wait)
        gate.set()
