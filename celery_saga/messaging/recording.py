"""Records a message as Celery makes it, before it is sent.

Receivers of ``before_task_publish``, a task's own ``apply_async()`` and tracers may change the
message that starts a saga. The changes must be known before the saga is saved, and each of these
must be called only once.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from kombu import Producer

from celery_saga.messaging.redis.message_cache import by_celery_alone


class Recorded:
    """One message: the arguments of a producer's ``publish()``.

    Args:
        body: the message's body.
        options: of ``kombu.Producer.publish``; ``options["headers"]`` are the message's headers.
    """

    def __init__(self, body: Any, options: dict[str, Any]) -> None:
        self._body, self._options = body, options

    @property
    def headers(self) -> Any:
        """The message's headers, Celery's own among them."""
        return self._options.get("headers")

    def send(self, app: Celery, producer: Any = None, **options: Any) -> None:
        """Publish the message.

        Args:
            producer: the producer to use; by default one of the app's own.
            options: they replace the options of Celery's call, such as ``retry``.
        """
        with app.producer_or_acquire(producer) as found, _library_errors(found):
            found.publish(self._body, **{**self._options, **options})


class _Recorder(Producer):
    """A producer that publishes nothing, and connects only if its channel is used."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection, auto_declare=False)
        self.recorded: Recorded | None = None

    def publish(self, body: Any, *args: Any, **options: Any) -> None:
        self.recorded = Recorded(body, options)


def _library_errors(producer: Any) -> Any:
    """Raise errors with the same class as in ``apply_async()``."""
    return producer.connection._reraise_as_library_errors()


def added_to(app: Celery, task: Any) -> bool:
    """Whether code other than Celery's may change the messages of ``task``."""
    return task is None or bool(
        signals.before_task_publish.receivers or not by_celery_alone(app, task)
    )


def recorder(app: Celery) -> Any:
    """Return a producer for ``apply_async(producer=)``; ``recorded`` is its message."""
    return _Recorder(app.connection_for_write())
