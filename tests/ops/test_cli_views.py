"""What ``celery saga`` shows of a saga, and how it is printed."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_saga import SagaExecution, SagaResult
from celery_saga.core.execution import SagaStatus
from celery_saga.core.plan import Call, Plan, PlanStep, Wait
from celery_saga.core.views.overview import brief, view
from celery_saga.core.views.text import age, printable
from celery_saga.errors import StoreUnavailable
from celery_saga.ops.cli import saga
from celery_saga.ops.cli.repairs import _pair
from celery_saga.ops.cli.shared import STATUSES, app_argument, seconds, table
from celery_saga.ops.cli.views import lines_of
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop

WAIT = Wait("approval", "is it ok?", key="answer")


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def shown(execution: Any) -> str:
    return "\n".join(lines_of(view(execution, "shop.celery"), execution.updated_at + 180))


class TestShow:
    def test_a_stuck_saga(self, shop: Shop) -> None:
        result = shop.stuck()
        shop.manager.retry(result, {"card_token": "tok_4242"}, by="ann")

        text = shown(result.execution)

        assert "status   STUCK, changed 3m ago" in text
        assert "cause    step take: its compensation failed" in text
        assert "COMPENSATION_FAILED" in text
        assert "retry by ann: card_token" in text
        assert "pay action 1 on a client" in text
        assert "take compensation" in text
        assert "card_token = '***'" in text
        assert "tok_4242" not in text
        assert "fail = ['pay', 'give_back']" in text
        for verb in ("retry", "skip", "resolve"):
            assert f"celery -A shop.celery saga {verb} {result.id}" in text

    @pytest.mark.parametrize(
        ("status", "verbs"),
        [
            ("COMPLETED", []),
            ("PAUSED", ["resume", "cancel"]),
            ("RUNNING", []),
            ("STUCK", ["retry", "skip", "resolve", "resolve"]),
        ],
    )
    def test_what_can_be_done(self, shop: Shop, status: str, verbs: list[str]) -> None:
        shop.app.conf.task_always_eager = status in ("COMPLETED", "STUCK")
        result = shop.stuck() if status == "STUCK" else shop.started()
        if status == "PAUSED":
            shop.manager.pause(result)

        seen = view(result.execution, "proj")

        assert seen["status"] == status
        assert [each["command"].split()[4] for each in seen["repairs"]] == verbs

    def test_all_of_it_is_json(self, shop: Shop) -> None:
        seen = view(shop.stuck().execution, "proj")

        assert json.loads(json.dumps(seen)) == seen
        assert [step["step"] for step in seen["steps"]] == ["take", "pay"]

    def test_what_a_saga_holds_steers_no_terminal(self, shop: Shop) -> None:
        result = shop.started(fail=["pay", "give_back"])
        execution = shop.manager.retry(result, {"fail": ["give_back"], "x\x1b[2J": "\x1b]0;\n"})

        text = shown(execution.execution)

        assert "\x1b" not in text
        assert "x\\x1b[2J = '\\x1b]0;\\n'" in text


def test_the_statuses_that_can_be_asked_for_are_all_there_are() -> None:
    assert tuple(status.value for status in SagaStatus) == STATUSES


def test_a_brief_names_the_step_where_it_is(shop: Shop) -> None:
    shop.app.conf.task_always_eager = False

    found = brief(shop.started().execution)

    assert (found["status"], found["step"], found["cause"]) == ("RUNNING", "take", "")


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [("90", 90), ("90s", 90), ("1.5m", 90), ("15m", 900), ("2h", 7200), ("3d", 259200)],
    )
    def test_ages(self, text: str, expected: float) -> None:
        assert seconds(text) == expected

    @pytest.mark.parametrize("text", ["", "m", "-3m", "3w", "3 m", "1m30s", "nan"])
    def test_what_is_not_an_age(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="expected an age"):
            seconds(text)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("total=30", ("total", 30)),
            ('card="42=42"', ("card", "42=42")),
            ('lines=[{"sku": "a"}]', ("lines", [{"sku": "a"}])),
            ("note=null", ("note", None)),
        ],
    )
    def test_keys_that_are_set(self, text: str, expected: tuple[str, Any]) -> None:
        assert _pair(text) == expected

    @pytest.mark.parametrize("text", ["total", "=3", "card=4242-", "card=", "x={"])
    def test_what_sets_no_key(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="expected KEY=JSON"):
            _pair(text)

    @pytest.mark.parametrize(
        ("elapsed", "expected"),
        [(-1, "0s ago"), (5, "5s ago"), (119, "119s ago"), (120, "2m ago"), (1e6, "11d ago")],
    )
    def test_how_long_ago(self, elapsed: float, expected: str) -> None:
        assert age(elapsed) == expected

    def test_a_table(self) -> None:
        rows = [("a", "bcd"), ("efgh\n", "x" * 100)]

        assert list(table(("ID", "CAUSE"), rows)) == [
            "ID      CAUSE",
            "a       bcd",
            "efgh\\n  " + "x" * 77 + "...",
        ]
        assert list(table(("ID",), [])) == []

    def test_printable(self) -> None:
        assert printable("Zoë\t\u202e\x9b") == "Zoë\\t\\u202e\\x9b"

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["-A", "shop.celery", "saga"], "shop.celery"),
            (["--app", "shop", "saga"], "shop"),
            (["--app=shop", "saga"], "shop"),
            (["-Ashop", "saga"], "shop"),
            (["saga", "show"], "env"),
            (["-A"], "env"),
        ],
    )
    def test_the_app_of_a_proposed_command(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
    ) -> None:
        monkeypatch.setattr("sys.argv", ["celery", *arguments])
        monkeypatch.setenv("CELERY_APP", "env")

        assert app_argument() == expected

    def test_celery_reads_two_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["celery", "saga", "show"])
        monkeypatch.setenv("CELERY_APP", "prefixed")
        monkeypatch.setenv("APP", "bare")

        assert app_argument() == "bare"


class CommandShop(Shop):
    """A shop whose sagas are controlled by commands."""

    def command(self, *arguments: str) -> Result:
        context = CLIContext(self.app, no_color=True, workdir=".")
        return CliRunner().invoke(saga, arguments, obj=context)


@pytest.fixture
def cli_shop() -> Iterator[CommandShop]:
    found = CommandShop()
    yield found
    found.app.close()


class TestCommands:
    @pytest.mark.parametrize("saga_id", ["--help", "-x", "order-7"])
    def test_what_is_proposed_can_be_typed(self, cli_shop: CommandShop, saga_id: str) -> None:
        result = cli_shop.orders.apply_async({"fail": ["pay", "give_back"]}, saga_id=saga_id)
        proposed = [each["command"] for each in view(result.execution, "a shop;x")["repairs"]]
        words = [shlex.split(command) for command in proposed]
        assert {tuple(each[:4]) for each in words} == {("celery", "-A", "a shop;x", "saga")}
        (resolve,) = [each[4:] for each in words if "COMPENSATED" in each]

        ran = cli_shop.command(*resolve)

        assert (ran.exit_code, ran.output) == (0, f"{saga_id}: COMPENSATED\n")

    def test_a_graph_of_a_definition_and_of_a_run(self, cli_shop: CommandShop) -> None:
        result = cli_shop.orders.apply_async({"fail": ["pay", "give_back"]}, saga_id="order-7")
        defined = cli_shop.command("graph", result.name)
        ran = cli_shop.command("graph", "order-7")
        assert defined.output.startswith("flowchart TD\n")
        assert "COMPENSATION_FAILED" in ran.output
        assert "COMPENSATION_FAILED" not in defined.output
        unknown = cli_shop.command("graph", "order-8")
        assert (unknown.exit_code, "order-8" in unknown.output) == (1, True)

    @pytest.mark.parametrize("verb", [("list",), ("show", "one")])
    def test_an_unavailable_store_is_reported_in_a_line(
        self, cli_shop: CommandShop, verb: tuple[str, ...]
    ) -> None:
        def unavailable(*args: Any, **kwargs: Any) -> Any:
            raise StoreUnavailable("the store is\x1b unavailable")

        store: Any = cli_shop.manager._runtime.store
        store.find = store.load = unavailable

        ran = cli_shop.command(*verb)

        assert (ran.exit_code, ran.output) == (1, "the store is\\x1b unavailable\n")


class TestSignal:
    @pytest.fixture
    def waiting(self, cli_shop: CommandShop) -> SagaResult:
        """A saga that waits for a signal whose name a shell would read as something else."""
        plan = Plan("waiting", (PlanStep("take", Call("shop.take", returns=False)), WAIT))
        runtime_of(cli_shop.app).orchestrator.start(plan, "s", {}, token="t")
        return cli_shop.manager.get("s")

    def test_what_show_proposes_can_be_typed(
        self, cli_shop: CommandShop, waiting: SagaResult
    ) -> None:
        (proposed,) = view(waiting.execution, "shop")["repairs"]
        ran = cli_shop.command(*shlex.split(proposed["command"])[4:])
        assert (ran.exit_code, ran.output) == (0, "s: COMPLETED\n")

    def test_its_payload_and_its_sender(self, cli_shop: CommandShop, waiting: SagaResult) -> None:
        arguments = ("s", "is it ok?", "--payload", '{"limit": 5}', "--by", "ann")
        ran = cli_shop.command("signal", *arguments)
        assert (ran.exit_code, ran.output) == (0, "s: COMPLETED\n")
        assert waiting.context["answer"] == {"limit": 5}
        assert waiting.execution.history[-1].by == "ann"

    def test_a_misspelt_name(self, cli_shop: CommandShop, waiting: SagaResult) -> None:
        ran = cli_shop.command("signal", "s", "is it OK?")
        assert ran.exit_code == 1
        assert "does not wait for a signal 'is it OK?': expected 'is it ok?'" in ran.output
        assert waiting.status == "RUNNING"

    def test_as_json(self, cli_shop: CommandShop, waiting: SagaResult) -> None:
        ran = cli_shop.command("signal", "s", "is it ok?", "--json")
        assert json.loads(ran.output) == {
            "schema": 1,
            "verb": "signal",
            "sagas": [{"id": "s", "status": "COMPLETED", "error": ""}],
        }

    def test_a_payload_that_is_not_json(self, cli_shop: CommandShop, waiting: SagaResult) -> None:
        ran = cli_shop.command("signal", "s", "is it ok?", "--payload", "yes")
        assert ran.exit_code == 2
        assert "expected JSON, found 'yes'" in ran.output
        assert waiting.status == "RUNNING"

    def test_an_unknown_id(self, cli_shop: CommandShop) -> None:
        ran = cli_shop.command("signal", "nothing", "approved")
        assert ran.exit_code == 1
        assert "nothing" in ran.output


class TestAll:
    """A verb for all sagas that match, on the command line."""

    @pytest.fixture
    def stuck(self, cli_shop: CommandShop) -> list[str]:
        found = [cli_shop.stuck().id]
        cli_shop.time += 100
        return [cli_shop.stuck().id, *found]

    def test_a_dry_run_prints_ids(self, cli_shop: CommandShop, stuck: list[str]) -> None:
        ran = cli_shop.command("skip", "--all", "--dry-run")
        assert (ran.exit_code, ran.output.split()) == (0, stuck)
        ran = cli_shop.command("skip", "--all", "--older-than", "50s", "--dry-run")
        assert ran.output.split() == stuck[1:]
        assert cli_shop.manager.counts()["STUCK"] == 2

    def test_with_yes_all_are_repaired(self, cli_shop: CommandShop, stuck: list[str]) -> None:
        ran = cli_shop.command("resolve", "--all", "--as", "COMPENSATED", "--yes", "--json")
        assert ran.exit_code == 0
        assert [each["id"] for each in json.loads(ran.output)["sagas"]] == stuck
        assert cli_shop.manager.counts()["STUCK"] == 0

    def test_it_asks_first(self, cli_shop: CommandShop, stuck: list[str]) -> None:
        ran = cli_shop.command("skip", "--all")  # without an answer
        assert ran.exit_code == 1
        assert "skip 2 sagas?" in ran.output
        assert cli_shop.manager.counts()["STUCK"] == len(stuck)

    def test_nothing_matches(self, cli_shop: CommandShop) -> None:
        ran = cli_shop.command("skip", "--all", "--saga", "nothing")
        assert (ran.exit_code, ran.output) == (0, "")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "Missing argument 'ID...'"),
            (["a", "--all"], "not both"),
            (["a", "--dry-run"], "are for --all"),
            (["a", "--saga", "order"], "are for --all"),
            (["a", "--yes"], "are for --all"),
        ],
    )
    def test_wrong_calls(self, cli_shop: CommandShop, arguments: list[str], said: str) -> None:
        ran = cli_shop.command("retry", *arguments)
        assert ran.exit_code == 2
        assert said in ran.output


class TestExport:
    def test_a_test_can_load_it_and_let_it_continue(self, cli_shop: CommandShop) -> None:
        stuck = cli_shop.stuck()
        ran = cli_shop.command("export", stuck.id)
        assert ran.exit_code == 0
        execution = SagaExecution.from_raw(json.loads(ran.output))
        assert execution == stuck.execution
        assert execution.steps[0].status == "COMPENSATION_FAILED"

        other = Shop()
        asyncio.run(other.manager.repository.store(execution))
        assert other.manager.retry(stuck.id, {"fail": []}).status == "COMPENSATED"
        assert other.ran == ["give_back"]
        other.app.close()

    def test_what_a_saga_holds_steers_no_terminal(self, cli_shop: CommandShop) -> None:
        result = cli_shop.orders.delay(fail=[], title="\x1b[2J\u202e")
        ran = cli_shop.command("export", result.id)
        assert not {"\x1b", "\u202e"} & set(ran.output)
        assert json.loads(ran.output)["context"]["title"] == "\x1b[2J\u202e"

    def test_an_unknown_id(self, cli_shop: CommandShop) -> None:
        ran = cli_shop.command("export", "nothing")
        assert ran.exit_code == 1
        assert "nothing" in ran.output
