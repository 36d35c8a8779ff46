"""A saga that can be started: the builder with Celery's calling convention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal

from celery import Celery, Signature, Task, current_app
from celery.local import Proxy

from celery_saga.core.context.codec import check
from celery_saga.core.context.masking import CONTEXT
from celery_saga.core.plan import Plan
from celery_saga.definition import functions
from celery_saga.definition.advice import warn_of, warn_of_nested
from celery_saga.definition.builder import SagaDefinition, Self
from celery_saga.definition.contexts import ContextModel, beginning
from celery_saga.definition.drafts import check_known, draft
from celery_saga.definition.planner import build_plan
from celery_saga.definition.steps import NestedSagaStep
from celery_saga.definition.steps.tree import local_steps, located, own_steps
from celery_saga.definition.strategies import check_declared
from celery_saga.errors import DefinitionError, SagaAlreadyExists
from celery_saga.messaging.callbacks import collect_callbacks, linked
from celery_saga.messaging.headers import checked_headers
from celery_saga.messaging.outcome import START
from celery_saga.result import C, SagaResult
from celery_saga.runtime import Runtime, only_app, runtime_of
from celery_saga.start import StartRequest, checked_id, context_values, on_commit, start
from celery_saga.worker import receivers

if TYPE_CHECKING:
    from celery_saga.definition.steps import Step

receivers.connect_without_manager()


class Saga(SagaDefinition, Generic[C]):
    """A definition that is started like a task: ``saga.delay(order_id=7)``."""

    __doc__ = f"{__doc__}\n\n{SagaDefinition.__doc__}"

    if TYPE_CHECKING:  # the class of its context is known by ``context=``

        def __init__(
            self,
            name: str | None = None,
            *,
            steps: Iterable[Step] | None = None,
            app: Any = None,
            on_compensation_failure: Literal["continue", "stop"] = "continue",
            context: type[C] | None = None,
        ) -> None: ...

    def commit(self: Self) -> Self:
        """Make the saga immutable and register its functions; returns the saga.

        It warns of steps whose definition causes trouble in some failure.

        Raises:
            AlreadyCommittedException: it is committed.
            DefinitionError: two pivots, a compensation on or after the pivot, two steps of one
                name, a task whose parameters are not known, ...
        """
        steps = own_steps(self)
        check_declared(steps)
        check_known(steps)
        super().commit()
        warn_of_nested(self)
        if all(step.action is not None for step in local_steps(steps)):
            warn_of(self, draft(self, only_app()))
        return self

    @property
    def app(self) -> Celery:
        """The app that runs it: given, else the app of its tasks, else the current one.

        In a thread that has no current app, it is the app that has a SagaManager.

        Raises:
            DefinitionError: its tasks belong to several apps.
        """
        found = self.own_app()
        if found is None:
            found = current_app._get_current_object()  # type: ignore[attr-defined]
            if found.main == "default" and not found.set_as_current:
                # The one that Celery makes where no app is current, as in new threads.
                found = only_app() or found
        return found

    @property
    def plan(self) -> Plan:
        """The plan by which its app runs it, as data; ``print(saga.plan)`` shows the tree.

        Raises:
            DefinitionError: the saga cannot be run; the text says what to change.
        """
        return build_plan(self, self.app)

    def own_app(self) -> Celery | None:
        """The app that it is bound to: given, or that of its tasks; ``None``: any may run it.

        Raises:
            DefinitionError: its tasks belong to several apps.
        """
        if self._app is not None:
            return self._app  # type: ignore[no-any-return]
        apps = {id(app): app for app in self._apps()}
        if len(apps) > 1:
            names = " and ".join(sorted(repr(app.main) for app in apps.values()))
            raise DefinitionError(
                f"saga {self.name!r}: its tasks belong to the apps {names}; a saga runs on one "
                f"app: use tasks of one, or name it with Saga(..., app=app) and give the others by "
                f"their names"
            )
        found = next(iter(apps.values()), None)
        if self.committed:
            self._app = found  # its steps do not change any more
        return found

    def _apps(self) -> Iterator[Celery]:
        """The apps of its tasks, and those that sagas nested in it were given."""
        for found in located(self):
            if isinstance(found.step, NestedSagaStep):
                given = getattr(found.step.nested, "_app", None)
                yield from () if given is None else (given,)
            for _, operation in found.step.operations():
                target = operation.callback
                if type(target) is Proxy:
                    continue  # a shared task goes with every app
                if not functions.is_plain(target) and isinstance(target, Task):
                    yield target.app

    def delay(self, /, **context: Any) -> SagaResult[C]:
        """Start a run with this context."""
        return self.apply_async(context)

    def apply_async(
        self,
        context: Mapping[str, Any] | C | None = None,
        *,
        saga_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        deadline: float | timedelta | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        on_duplicate: str = "return",
    ) -> SagaResult[C]:
        """Start a run with this context.

        Args:
            saga_id: its id, ``[A-Za-z0-9._-]{1,64}``; left out, a new uuid4.
            countdown: seconds until the first step is sent; ``eta``: the time, naive ones in UTC.
            deadline: seconds, or a time, by which it must be past its pivot or at its end.
            queue: for steps that name none (nor their task, nor a route); ``priority`` likewise.
            headers: of every message of the run, with those that receivers add to the first.
            link: a signature or several, called with the final context when it completes;
                ``link_error``: called with its id when it does not, as errbacks of tasks are.
            on_duplicate: of a taken id, ``"return"`` the same start and raise for another one;
                ``"return_any"``; ``"raise"``; ``"restart_failed"``: anew if it was compensated.

        Raises:
            SetupError: the app has no SagaManager here, or no usable store.
            DefinitionError: the saga cannot be run.
            ContextInvalid, MissingInput, UnserializableValue, ContextTooLarge: of the context.
            SagaAlreadyExists: the id is taken, and ``on_duplicate`` does not allow that.
            StoreUnavailable: the store is unavailable; calling again with the same id is safe.
            ValueError: another argument is not valid.
        """
        given: dict[str, Any] = {"countdown": countdown, "eta": eta, "deadline": deadline}
        given |= {"queue": queue, "priority": priority, "headers": headers, "saga_id": saga_id}
        given |= {"link": link, "link_error": link_error, "on_duplicate": on_duplicate}
        return started(start_request(self, self.app, context, **given), self.model)

    def delay_on_commit(self, /, *, using: str | None = None, **context: Any) -> None:
        """As :meth:`delay`, once Django's current transaction is committed; see below."""
        self.apply_async_on_commit(context, using=using)

    def apply_async_on_commit(
        self,
        context: Mapping[str, Any] | C | None = None,
        *,
        using: str | None = None,
        **options: Any,
    ) -> None:
        """As :meth:`apply_async`, once Django's current transaction is committed.

        Errors are raised now, while the transaction can still be rolled back; the context is
        copied now; ``countdown`` and ``deadline`` count from the commit. Nothing starts if the
        transaction is rolled back. Outside of one the saga starts at once. Like Celery's own
        ``task.delay_on_commit()`` it returns no result: set ``saga_id=`` to find the saga.

        Args:
            context: the values that the saga begins with.
            using: the database of the transaction, by its name in ``DATABASES``, as for
                Django's ``transaction.on_commit()``; by default the default one.
            options: as for :meth:`apply_async`.

        Raises:
            SetupError: Django is not installed, or not configured in this process.
            SagaError, ValueError, TypeError: as :meth:`apply_async`.
        """
        request = start_request(self, self.app, context, **options)
        on_commit(partial(started, request), using)

    def s(self, /, **context: Any) -> Signature[Any]:
        """Return the start of a run with this context, as a signature for canvas and beat.

        As a link of a chain or as a callback it gets the result before it, which must be a mapping
        or None; keys that are given here take precedence.
        The result of the signature is the final context.

        Raises:
            DefinitionError: the saga has no name by which a worker could find it.
            SagaNotCommittedException: ``commit()`` is missing.
            UnserializableValue: a value of the context cannot be sent.
        """
        return self.signature(context)

    def si(self, /, **context: Any) -> Signature[Any]:
        """As :meth:`s`, without the result of the task before it."""
        return self.signature(context, immutable=True)

    def signature(
        self,
        context: Mapping[str, Any] | C | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature[Any]:
        """As :meth:`s`, with the options of the message that starts the run.

        Args:
            context: the values that the saga begins with.
            immutable: ignore the result of the task before it.
            options: Celery's, such as ``queue``, ``countdown``, ``priority``, ``task_id``; the
                task's id is the saga's.
        """
        self.validate()
        if self._name is None:
            raise DefinitionError(
                "a saga without a name cannot be a signature, because a worker could not find it: "
                "give it one with Saga('name')"
            )
        given: Any = context
        whole = self.model is not None and isinstance(given, self.model.cls)
        begins = beginning(self.model, given, context_values) if whole else {"context": given}
        values = context_values(begins["context"])
        check(values, "context")
        named = {"saga": self._name, "context": values}
        # As for a step that takes the whole context. The words to mask are not known yet:
        # signatures are made while modules are imported, and that must not read the configuration.
        options = {"kwargsrepr": repr({**named, "context": CONTEXT}), **options}
        return _Start(START, kwargs=named, options=options, immutable=immutable, app=self.app)


def start_request(
    saga: Saga[Any],
    app: Celery,
    context: Any,
    *,
    saga_id: str | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    deadline: float | timedelta | datetime | None = None,
    queue: str | None = None,
    priority: int | None = None,
    headers: Mapping[str, Any] | None = None,
    link: Any = None,
    link_error: Any = None,
    on_duplicate: str = "return",
) -> StartRequest:
    """Make the checked request for a run on ``app``; arguments as of :meth:`Saga.apply_async`."""
    runtime = runtime_of(app)
    return StartRequest(
        runtime,
        runtime.plans.of(saga, **_routing(queue, priority)),
        saga_id=None if saga_id is None else checked_id("saga_id", saga_id),
        countdown=countdown,
        eta=eta,
        deadline=deadline,
        on_duplicate=on_duplicate,
        headers=checked_headers(headers),
        callbacks=collect_callbacks(app, saga, linked(app, link, link_error) or None),
        **beginning(saga.model, context, context_values, runtime.codec),
    )


def started(request: StartRequest, model: ContextModel | None = None) -> SagaResult[Any]:
    """Carry out a start, and return the handle of its run."""
    with _with_existing(request.runtime):
        saga_id, created = start(request)
    return SagaResult(request.runtime, saga_id, created=created, model=model)


@contextmanager
def _with_existing(runtime: Runtime) -> Iterator[None]:
    """The error of a taken id has the handle of the run that has it."""
    try:
        yield
    except SagaAlreadyExists as error:
        error.existing = SagaResult(runtime, error.saga_id)
        raise


class _Start(Signature[Any]):
    """A signature whose repr shows no values of the context; its copies are Celery's own."""

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        return f"{self['task']}(saga={self['kwargs']['saga']!r}, context={CONTEXT})"


def _routing(queue: Any, priority: Any) -> dict[str, Any]:
    if queue is not None and not (isinstance(queue, str) and queue):
        raise ValueError(f"queue: expected a queue's name, found {queue!r}")
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if priority is not None and not (whole and 0 <= priority <= 255):
        raise ValueError(f"priority: expected 0 to 255, found {priority!r}")
    given = {"queue": queue, "priority": priority}
    return {key: value for key, value in given.items() if value is not None}
