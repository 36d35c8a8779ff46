"""Sagas with branches, choices, loops and others inside, as a project's ``sagas.py`` has them."""

from __future__ import annotations

from celery import shared_task

from celery_saga import LocalSagaStep, NestedSagaStep, Saga, SagaContext, saga_info, saga_step
from tests.worker.apps.functional import app
from tests.worker.apps.steps import behave, compensation


@saga_step(compensation=compensation)
@shared_task(name="trees.work", acks_late=True)
def work(hold=(), fail=()):
    behave(hold, fail)
    return saga_info().step


@saga_step(compensation=compensation)
@shared_task(name="trees.double", acks_late=True)
def double(item, fail=()):
    behave((), fail)
    return 2 * item


@shared_task(name="trees.sees", acks_late=True)
def sees(context: SagaContext):
    context["seen"] = sorted(key for key in context if key != "seen")


async def greet(context: SagaContext) -> None:
    context["greeting"] = f"hello {context['name']}"


def is_large(context: SagaContext) -> bool:
    if context["total"] is None:
        raise ValueError("the total is not known")
    return bool(context["total"] > 100)


def step(name: str) -> LocalSagaStep:
    return LocalSagaStep(work, name=name)


inner = Saga("inner", steps=[step("c"), step("d")], app=app).commit()

group = Saga("trees.group", steps=[step("a")], app=app)
group.parallel_step(step("b"), inner, step("e")).local_step(step("f"))
group.commit()

together = Saga("trees.together", app=app)
together.parallel_step(step("a"), inner, step("b"), compensate="parallel").local_step(step("z"))
together.commit()

many = Saga("trees.many", app=app)
many.parallel_step(*(step(f"b{number}") for number in range(100)))
many.commit()

loop = Saga("trees.loop", steps=[step("a")], app=app)
loop.for_each("items", double, parallel=True, returns="doubled").local_step(step("z"))
loop.commit()

in_turn = Saga("trees.in_turn", app=app)
in_turn.for_each("items", double, returns="doubled").local_step(step("z"))
in_turn.commit()

seeing = Saga("seeing", steps=[sees, LocalSagaStep(work, name="paid")], app=app).commit()
nested = Saga("trees.nested", steps=[step("a")], app=app)
nested.nested_step(seeing, inputs={"amount": "total"}, returns={"seen": "seen", "payment": "paid"})
nested.commit()

choice = Saga("trees.choice", steps=[step("a")], app=app)
way = choice.conditional_step(name="way").if_then(is_large, NestedSagaStep(inner, name="large"))
way.if_then(lambda context: context["total"] < 0, greet).else_then(step("small"))
choice.local_step(step("z"))
choice.commit()

#: The first node is not a step.
first = Saga("trees.first", app=app)
first.nested_step(Saga("both", app=app).parallel_step(step("a"), step("b")).commit())
first.commit()
