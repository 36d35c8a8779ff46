"""Durable sagas on the Celery you already run.

A name is imported when it is first used, because Celery's command line imports the package at each
start.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Celery restores stored errors only from modules that are imported.
from celery_saga import errors as errors
from celery_saga._version import __version__ as __version__

if TYPE_CHECKING:
    from celery_saga.core.context.saga_context import SagaContext as SagaContext
    from celery_saga.core.execution import SagaExecution as SagaExecution
    from celery_saga.core.info import SagaInfo as SagaInfo
    from celery_saga.core.remote import SagaRequest as SagaRequest
    from celery_saga.core.remote import SagaResponse as SagaResponse
    from celery_saga.core.remote import SagaResponseStatus as SagaResponseStatus
    from celery_saga.core.state import SagaStatus as SagaStatus
    from celery_saga.core.state import SagaStepExecution as SagaStepExecution
    from celery_saga.core.state import StepStatus as StepStatus
    from celery_saga.definition.binding import Const as Const
    from celery_saga.definition.operations import SagaOperation as SagaOperation
    from celery_saga.definition.operations import saga_step as saga_step
    from celery_saga.definition.steps import ConditionalSagaStep as ConditionalSagaStep
    from celery_saga.definition.steps import LocalSagaStep as LocalSagaStep
    from celery_saga.definition.steps import NestedSagaStep as NestedSagaStep
    from celery_saga.definition.steps import RemoteSagaStep as RemoteSagaStep
    from celery_saga.errors import *  # noqa: F403
    from celery_saga.manager import SagaManager as SagaManager
    from celery_saga.repository import SagaExecutionRepository as SagaExecutionRepository
    from celery_saga.result import SagaResult as SagaResult
    from celery_saga.saga import Saga as Saga
    from celery_saga.worker.current_step import saga_info as saga_info
    from celery_saga.worker.remote.participants import saga_participant as saga_participant

#: The module of each public name. All errors can be imported from here; those of the Minos
#: framework are not listed.
_HOMES = {
    "core.context.saga_context": "SagaContext",
    "core.execution": "SagaExecution",
    "core.info": "SagaInfo",
    "core.remote": "SagaRequest SagaResponse SagaResponseStatus",
    "core.state": "SagaStatus SagaStepExecution StepStatus",
    "definition.binding": "Const",
    "definition.operations": "SagaOperation saga_step",
    "definition.steps": "ConditionalSagaStep LocalSagaStep NestedSagaStep RemoteSagaStep",
    "errors": (
        "AbortSaga BadStepResult BarrierPassedTwice BlockedByCompensation ContextInvalid "
        "ContextTooLarge DefinitionError DefinitionWarning MissingInput SagaAlreadyExists "
        "SagaCompensated SagaError SagaNotActionable SagaNotFound SagaParticipantError "
        "SagaPastPivot SagaStuck "
        "SetupError StoreError StoreUnavailable UnserializableValue UnsupportedCheckpoint"
    ),
    "manager": "SagaManager",
    "repository": "SagaExecutionRepository",
    "result": "SagaResult",
    "saga": "Saga",
    "worker.current_step": "saga_info",
    "worker.remote.participants": "saga_participant",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        found = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name.endswith("Exception") and hasattr(errors, name):
        found = getattr(errors, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
