"""What the example prints: a table of the orders, a summary, and the balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_saga import SagaExecution, SagaStatus, SagaStepExecution, StepStatus
from example_project.balance import Order, total_cents, totals
from example_project.shop.database import ShopDatabase

#: Sign and colour of a step; a step that was never reached is left out.
MARKS = {
    StepStatus.SUCCEEDED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.COMPENSATED: ("↩", "yellow"),
    StepStatus.COMPENSATION_FAILED: ("‼", "bold red"),
}
UNFINISHED = ("…", "magenta")
#: How many differences are shown.
SHOWN = 20
COLOURS = {SagaStatus.COMPLETED: "green", SagaStatus.COMPENSATED: "yellow"}


@dataclass
class Kill:
    """What is known of the worker that was killed.

    Args:
        pid: the worker's process id.
        in_flight: ids of the orders whose sagas were not settled.
        interrupted: order id, task and whether it is acknowledged late, of each call that was cut.
        settled_after: seconds from the kill until the last saga was settled.
    """

    pid: int
    in_flight: list[int]
    interrupted: list[tuple[int, str, bool]] = field(default_factory=list)
    settled_after: float = 0.0


def orders_table(
    orders: list[Order], executions: Mapping[int, SagaExecution], *, wide: bool
) -> Table:
    """One row per order: who (if wide), how much, how it ended, which steps, how many seconds."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("order")
    if wide:
        table.add_column("customer", no_wrap=True)
    table.add_column("EUR", justify="right")
    table.add_column("end state")
    table.add_column("steps")
    table.add_column("s", justify="right")
    for order in orders:
        execution = executions[order["order_id"]]
        table.add_row(
            str(order["order_id"]),
            *([Text(order["customer"]["name"])] if wide else []),
            euros(total_cents(order)),
            Text(execution.status, COLOURS.get(execution.status, "bold red")),
            steps_line(execution),
            f"{execution.updated_at - execution.created_at:.1f}",
        )
    return table


def steps_line(execution: SagaExecution) -> Text:
    """The steps of a saga in one line, with a word on those that did not go straight through."""
    line = Text()
    for step in execution.steps:
        if step.status in (StepStatus.PENDING, StepStatus.SKIPPED):
            continue
        mark, colour = MARKS.get(step.status, UNFINISHED)
        line.append(f"{mark} {step.name.partition('_')[0]} ", colour)
        if remark := _remark(step):
            line.append(f"({remark}) ", "dim")
    line.rstrip()
    return line


def print_summary(console: Console, statuses: Mapping[int, SagaStatus], kill: Kill | None) -> None:
    """How many sagas ended in which way, and what became of those that the kill met."""
    count = Counter(statuses.values())
    unsettled = len(statuses) - sum(count[s] for s in (*COLOURS, SagaStatus.STUCK))
    console.print(
        f"\n[bold]{len(statuses)} sagas[/]: [green]{count[SagaStatus.COMPLETED]} completed[/], "
        f"[yellow]{count[SagaStatus.COMPENSATED]} compensated[/], "
        f"{count[SagaStatus.STUCK]} stuck, {unsettled} not settled"
    )
    if kill is None:
        return
    console.print(
        f"[bold]The kill[/] (worker {kill.pid}): {len(kill.in_flight)} sagas were in flight; "
        f"all were settled {kill.settled_after:.1f} s later."
    )
    for order_id, task, late in kill.interrupted:
        contract = "acknowledged late: run again" if late else "acknowledged early: compensated"
        console.print(f"  order {order_id} was in {task} ({contract}) → {statuses[order_id]}")


def print_balance(console: Console, database: ShopDatabase, found: list[str]) -> None:
    """The totals of the shop's own database, and every difference."""
    total = totals(database)
    console.print(
        f"[bold]The shop's database[/]: {total['pieces']} pieces in {total['parcels']} parcels, "
        f"{total['confirmations']} confirmations, {euros(total['charged'])} EUR charged, "
        f"{euros(total['refunded'])} EUR refunded"
    )
    if not found:
        console.print("[green]Stock, money, parcels and confirmations balance.[/]")
    for difference in found[:SHOWN]:
        console.print(f"[bold red]Does not balance:[/] {difference}")
    if len(found) > SHOWN:
        console.print(f"[bold red]... and {len(found) - SHOWN} more differences[/]")


def _remark(step: SagaStepExecution) -> str:
    if step.error is None:
        return ""
    if step.lost and step.status is StepStatus.SUCCEEDED:
        return "run again"
    if step.error.type == "OutcomeUnknown":
        return "outcome unknown"
    first = step.error.message.partition("\n")[0]
    return first if len(first) <= 40 else f"{first[:39]}…"


def euros(cents: int) -> str:
    """Cents as euros: ``1,234.50``."""
    return f"{cents / 100:,.2f}"
