"""Queues for apps and tests to share: one of a topic exchange that expires, one of a fanout."""

from kombu import Exchange, Queue

QUEUES = [
    Queue("celery"),
    Queue("orders", Exchange("orders", type="topic"), routing_key="orders.#", expires=600),
    # No Broadcast: Celery does not declare it where it sends to it, and Redis then does not know
    # that its exchange is a fanout.
    Queue("all", Exchange("all", type="fanout")),
]
