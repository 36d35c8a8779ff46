"""What is known of a task that Celery has not made yet, and that asking for it does not make it."""

from __future__ import annotations

import pytest
from celery import Celery, Task, shared_task

from celery_saga.definition.tasks.declarations import declaration_of


class Base(Task):
    acks_late = True


def charge(card):
    return card


def test_a_lazy_task():
    app = Celery("lazy", set_as_current=False)
    task = app.task(acks_late=True, bind=True, shared=False)(charge)

    found = declaration_of(task)

    assert (found.function, found.bind, found.task) == (charge, True, None)
    assert found.option("acks_late") is True
    assert not task.__evaluated__()
    assert not app.finalized


def test_what_a_base_class_says_holds():
    app = Celery("base", set_as_current=False)

    found = declaration_of(app.task(base=Base, shared=False)(charge))

    assert found.option("acks_late") is True
    assert found.option("ignore_result") is None


@pytest.mark.parametrize("options", [{}, {"acks_late": True}])
def test_a_shared_task(options):
    def refund(card):
        return card

    found = declaration_of(shared_task(name=f"declared.refund.{len(options)}", **options)(refund))

    assert found.function is refund
    assert found.option("acks_late") is options.get("acks_late")


def test_two_shared_tasks_of_one_function():
    def refund(card):
        return card

    tasks = [
        shared_task(name=f"declared.of_one.{late}", acks_late=late)(refund)
        for late in (True, False)
    ]
    found = [declaration_of(task) for task in [*tasks, shared_task(refund)]]

    assert [each.option("acks_late") for each in found] == [True, False, None]
    assert [each.option("name") for each in found] == [
        "declared.of_one.True",
        "declared.of_one.False",
        None,
    ]


def test_a_task_that_is_made():
    app = Celery("made", set_as_current=False)
    task = app.task(charge, shared=False, name="declared.made")
    app.finalize()

    found = declaration_of(task)

    assert found.task == app.tasks[task.name]
    assert found.function("c") == "c"


@pytest.mark.parametrize("target", ["shop.charge", charge, lambda context: None, None, 7])
def test_what_is_not_a_task(target):
    assert declaration_of(target) is None
