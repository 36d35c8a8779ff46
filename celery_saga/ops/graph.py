"""A plan, or a run of it, as a Mermaid flowchart. Pure.

https://mermaid.js.org/syntax/flowchart.html: GitHub, GitLab and most documentation tools draw it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from celery_saga.core.execution import SagaExecution, StepStatus
from celery_saga.core.plan import (
    Choice,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Path,
    Plan,
    PlanStep,
    Sleep,
    Wait,
)

#: Statuses of steps -> how a node is drawn.
_CLASSES = {
    StepStatus.SUCCEEDED: "good",
    StepStatus.RUNNING: "active",
    StepStatus.WAITING: "active",
    StepStatus.COMPENSATING: "back",
    StepStatus.COMPENSATED: "back",
    StepStatus.SKIPPED: "back",
    StepStatus.FAILED: "bad",
    StepStatus.UNKNOWN: "bad",
    StepStatus.COMPENSATION_FAILED: "bad",
}
_STYLES = (
    "classDef good fill:#d1e7dd,stroke:#0f5132,color:#0f5132",
    "classDef active fill:#cfe2ff,stroke:#084298,color:#084298",
    "classDef back fill:#fff3cd,stroke:#664d03,color:#664d03",
    "classDef bad fill:#f8d7da,stroke:#842029,color:#842029",
)

#: Characters that mean something in a Mermaid label, by their codes.
_SPECIAL = {each: f"#{ord(each)};" for each in '"#<>&;`|{}[]()'}


def mermaid(plan: Plan, execution: SagaExecution | None = None) -> str:
    """The text of a flowchart.

    Args:
        plan: what is drawn; a loop's body is drawn once.
        execution: a run of it, whose statuses are written into the nodes.
    """
    chart = _Chart(plan, execution)
    end = chart.node("finish", "(((", "end", ")))")
    chart.edges(chart.drawn((), [(chart.node("begin", "([", _label(plan.saga), "])"), "")]), end)
    used = [style for style in _STYLES if style.split()[1] in chart.classes]
    return "\n".join(["flowchart TD", *chart.lines, *(f"  {style}" for style in used)])


#: Where the next node is joined on: a node's name, and what is written on the edge.
Exits = list[tuple[str, str]]


@dataclass
class _Chart:
    plan: Plan
    execution: SagaExecution | None
    lines: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    _depth: int = 1

    def line(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    def node(self, name: str, left: str, text: str, right: str, look: str = "") -> str:
        self.line(f'{name}{left}"{text}"{right}' + (f":::{look}" if look else ""))
        if look:
            self.classes.add(look)
        return name

    def edges(self, exits: Exits, to: str) -> None:
        for name, text in exits:
            self.line(f'{name} -->|"{text}"| {to}' if text else f"{name} --> {to}")

    def drawn(self, path: Path, before: Exits) -> Exits:
        """Draw the node at a path behind others; returns where the next one is joined on."""
        node = self.plan.at(path)
        if isinstance(node, NestedSaga):
            return self._nested(path, node, before)
        if isinstance(node, Parallel):
            return self._parallel(path, node, before)
        if isinstance(node, Choice):
            return self._choice(path, node, before)
        if isinstance(node, ForEach):
            return self._loop(path, node, before)
        name = self._leaf(path, node)
        self.edges(before, name)
        if isinstance(node, Wait) and node.on_timeout is not None:
            return [(name, ""), *self.drawn((*path, 0), [(name, "timeout")])]
        return [(name, "")]

    def _leaf(self, path: Path, node: Node) -> str:
        if isinstance(node, Wait):
            limit = "" if node.timeout is None else f"<br/>{node.timeout:g} s at most"
            text = f"{_label(node.name)}<br/>waits for {_label(node.signal)}{limit}"
            left, right = "([", "])"
        elif isinstance(node, Sleep):
            text, left, right = f"{_label(node.name)}<br/>sleeps {node.seconds:g} s", "([", "])"
        else:
            assert isinstance(node, PlanStep)
            back = f"<br/>&#8630; {_label(node.compensation.task)}" if node.compensation else ""
            pivot = "<br/>pivot" if node.pivot else ""
            text = f"<b>{_label(node.name)}</b><br/>{_label(node.action.task)}{back}{pivot}"
            left, right = ("[[", "]]") if node.pivot else ("[", "]")
        status, look = self._status(path)
        return self.node(_name(path), left, text + status, right, look)

    def _nested(self, path: Path, node: NestedSaga, before: Exits) -> Exits:
        if path:
            self._open(path, _label(node.name))
        for place in range(len(node.steps)):
            before = self.drawn((*path, place), before)
        if path:
            self._close()
        return before

    def _parallel(self, path: Path, node: Parallel, before: Exits) -> Exits:
        self._open(path, _label(node.name))
        name = self.node(f"{_name(path)}f", "{{", "all at once", "}}")
        self.edges(before, name)
        exits: Exits = []
        for place in range(len(node.branches)):
            exits += self.drawn((*path, place), [(name, "")])
        join = self.node(f"{_name(path)}j", "{{", "join", "}}", self._status(path)[1])
        self.edges(exits, join)
        self._close()
        return [(join, "")]

    def _choice(self, path: Path, node: Choice, before: Exits) -> Exits:
        status, look = self._status(path)
        name = self.node(_name(path), "{", _label(node.name) + status, "}", look)
        self.edges(before, name)
        exits: Exits = []
        for place, case in enumerate(node.cases):
            exits += self.drawn((*path, place), [(name, _label(case.condition.task))])
        if node.otherwise is None:
            return [*exits, (name, "otherwise")]
        return exits + self.drawn((*path, len(node.cases)), [(name, "otherwise")])

    def _loop(self, path: Path, node: ForEach, before: Exits) -> Exits:
        keys = "".join(f"[{key!r}]" for key in node.over)
        way = "all at once" if node.parallel else "one after the other"
        self._open(path, _label(f"{node.name}: each {node.item} of context{keys}, {way}"))
        exits = self.drawn((*path, 0), before)
        self._close()
        return exits

    def _open(self, path: Path, title: str) -> None:
        self.line(f'subgraph {_name(path)}g["{title}"]')
        self._depth += 1

    def _close(self) -> None:
        self._depth -= 1
        self.line("end")

    def _status(self, path: Path) -> tuple[str, str]:
        """What a run has made of a node: a line of its label, and how it is drawn."""
        if self.execution is None:
            return "", ""
        found = Counter(self._statuses(path))
        if not found:
            return "", ""
        looks = {status: _CLASSES.get(status, "") for status in found}
        several = sum(found.values()) > 1
        words = [f"{n} {status.value}" if several else status.value for status, n in found.items()]
        return f"<br/>{', '.join(words)}", max(looks.values(), key=_ORDER.index)

    def _statuses(self, path: Path) -> Iterator[StepStatus]:
        """The statuses of a node; in a loop of that of each item."""
        assert self.execution is not None
        for found, record in self.execution.steps.items():
            if self.plan.first_of(found) == path and record.status is not StepStatus.PENDING:
                yield record.status


#: Of several items the last of these is shown.
_ORDER = ["", "good", "back", "active", "bad"]


def _name(path: Path) -> str:
    return "n" + "_".join(map(str, path))


def _label(text: str) -> str:
    """A text in which nothing has a meaning for Mermaid or HTML."""
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return "".join(_SPECIAL.get(one, one) for one in shown)
