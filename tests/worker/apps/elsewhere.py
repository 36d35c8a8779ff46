"""A service of another team: the callers know its task by name only."""

from celery import shared_task


@shared_task(name="elsewhere.ship")
def ship(address, express=False):
    return {"shipped": [address, express]}


@shared_task(name="elsewhere.two_needed")
def two_needed(one, two):
    return one + two
