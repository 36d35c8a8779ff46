"""What the package's modules import, read from their source; ``python -m tests.architecture``
prints the figures.

A *unit* is a folder of the package, or a file beside the folders. Imports for type checkers count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import celery_saga

PACKAGE = Path(celery_saga.__file__).parent


def module_name(path: Path) -> str:
    """The dotted name of a file within the package; the package itself is ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    """A module's source, parsed."""
    return ast.parse(FILES[name].read_text())


def unit_of(name: str) -> str:
    """The folder or file of the package's top level in which a module is."""
    return name.partition(".")[0]


def imported(name: str) -> Iterator[str]:
    """Full names of the modules that a module imports."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("celery_saga.")
                own = node.module.startswith("celery_saga") and inner in FILES
                yield f"celery_saga.{inner}" if own else node.module


def arrows(name: str) -> frozenset[str]:
    """The package's own modules that a module imports."""
    found = {
        other.removeprefix("celery_saga.") if "." in other else "__init__"
        for other in imported(name)
        if other.split(".")[0] == "celery_saga"
    }
    return frozenset(found - {name})


def graph_of_modules() -> dict[str, Set[str]]:
    """Module -> modules that it imports."""
    return {name: arrows(name) for name in FILES}


def graph_of_units() -> dict[str, Set[str]]:
    """Unit -> units that it imports."""
    graph: dict[str, set[str]] = {unit_of(name): set() for name in FILES}
    for name in FILES:
        graph[unit_of(name)] |= {unit_of(other) for other in arrows(name)} - {unit_of(name)}
    return dict(graph)


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """The groups of nodes that import each other, directly or not (Tarjan's components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def levels(graph: Mapping[str, Set[str]]) -> int:
    """The length of the longest way down, in nodes; a circle counts as one node."""
    group_of = {name: name for name in graph}
    for group in circles(graph):
        group_of |= dict.fromkeys(group, group[0])

    @cache
    def height(group: str) -> int:
        below = {
            group_of[other]
            for name in graph
            if group_of[name] == group
            for other in graph[name]
            if group_of[other] != group
        }
        return 1 + max(map(height, below), default=0)

    return max(map(height, group_of.values()))


def figures() -> str:
    """Modules, units, levels, arrows and circles, as a line for each graph."""
    lines = []
    for what, graph in (("units", graph_of_units()), ("modules", graph_of_modules())):
        count = sum(len(others) for others in graph.values())
        lines.append(
            f"{len(graph)} {what} on {levels(graph)} levels, {count} arrows, "
            f"{len(circles(graph))} circles"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(figures())
