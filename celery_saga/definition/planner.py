"""Makes a plan from a definition and an app: names, signatures and options are looked up once."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, Task
from celery.local import PromiseProxy, Proxy

from celery_saga.core.plan import Commits, Plan
from celery_saga.definition import functions
from celery_saga.definition.advice import warn_of
from celery_saga.definition.builder import SAGAS, SagaDefinition
from celery_saga.definition.checks import check_steps
from celery_saga.definition.operations import declared_targets
from celery_saga.definition.planning.names import check_names
from celery_saga.definition.planning.nodes import Nodes
from celery_saga.definition.steps.tree import local_steps, located
from celery_saga.definition.tasks.declarations import (
    same_task,
)
from celery_saga.definition.tasks.routes import filled
from celery_saga.settings import Settings


class Plans:
    """The plans of one app, each made once because a committed saga cannot change.

    Args:
        app: the Celery app whose tasks, routes and settings are read.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._made: WeakKeyDictionary[SagaDefinition, dict[Any, Plan]] = WeakKeyDictionary()

    def of(self, definition: SagaDefinition, **options: Any) -> Plan:
        """Return the plan of a definition.

        Args:
            options: ``queue`` and ``priority`` of this run, for all steps that name none.

        Raises:
            DefinitionError: the saga cannot run; the text says what to change.
        """
        made = self._made.setdefault(definition, {})
        key = tuple(sorted(options.items()))
        if () not in made:
            made[()] = build_plan(definition, self._app)
        if key not in made:
            made[key] = made[()].with_calls(lambda call: filled(self._app, call, options))
        return made[key]

    def definitions(self, name: str, importable: bool = True) -> list[SagaDefinition]:
        """The different committed sagas of that name; ``importable``: only those of all workers."""
        found = {self.of(each).hash: each for each in SAGAS.named(name, importable)}
        return list(found.values())


def build_plan(definition: SagaDefinition, app: Celery) -> Plan:
    """Make the plan by which ``app`` runs ``definition``.

    Raises:
        DefinitionError: the saga cannot run; the text says what to change.
    """
    definition.validate()
    found = list(located(definition))
    completed = {
        id(step): step.completed(partial(_declared_as, app))
        for step in local_steps([each.step for each in found])
    }
    known = [each._replace(step=completed.get(id(each.step), each.step)) for each in found]
    check_steps(definition.name, known)
    nodes = Nodes(app, found, completed)
    steps = nodes.of(definition)
    warn_of(definition, nodes.own)
    settings = Settings.of(app)
    asked = any("commit" in dict(each.step.operations()) for each in known)
    plan = Plan(
        definition.name,
        (*steps, Commits()) if asked else steps,
        max_redeliveries=settings.max_redeliveries,
        unknown_task_grace=settings.unknown_task_grace,
        on_compensation_failure=definition.on_compensation_failure,
        model=definition.model.name_on(app.main) if definition.model else "",
        context_limit=settings.context_limit,
    )
    check_names(plan)
    return plan


def _declared_as(app: Celery, target: Any) -> Any:
    """The object that ``@saga_step`` decorated, for a task given by name or as the app has it."""
    if functions.is_plain(target) or type(target) in (Proxy, PromiseProxy):
        return None
    task = app.tasks.get(target) if isinstance(target, str) else target
    if not isinstance(task, Task):
        return None
    return next((one for one in declared_targets() if same_task(one, task)), task)
