"""The tasks of the Docker tier; pytest-celery copies this file to its containers."""

from __future__ import annotations

import time

from celery import shared_task

__all__ = ["book", "cancel", "decline"]


@shared_task(acks_late=True)
def book(seconds=0.0):
    """Takes its time, in which its worker may be killed."""
    time.sleep(seconds)
    return {"booked": True}


@shared_task
def cancel():
    return None


@shared_task
def decline():
    raise ValueError("no")
