"""Durable sagas on the Celery you already run."""

from celery_saga._version import __version__
from celery_saga.binding import Const
from celery_saga.context import SagaContext
from celery_saga.errors import (
    AbortSaga,
    DefinitionError,
    SagaAlreadyExists,
    SagaCompensated,
    SagaError,
    SagaException,
    SagaExecutionNotFoundException,
    SagaFailedExecutionException,
    SagaNotFound,
    SagaPastPivot,
    SagaStuck,
    SetupError,
    StoreError,
)
from celery_saga.execution import SagaExecution, SagaStatus, SagaStepExecution, StepStatus
from celery_saga.info import SagaInfo, saga_info
from celery_saga.manager import SagaExecutionRepository, SagaManager
from celery_saga.messages import SagaRequest, SagaResponse, SagaResponseStatus
from celery_saga.result import SagaResult
from celery_saga.saga import Saga
from celery_saga.steps import LocalSagaStep, SagaOperation, saga_step

__all__ = [
    "AbortSaga",
    "Const",
    "DefinitionError",
    "LocalSagaStep",
    "Saga",
    "SagaAlreadyExists",
    "SagaCompensated",
    "SagaContext",
    "SagaError",
    "SagaException",
    "SagaExecution",
    "SagaExecutionNotFoundException",
    "SagaExecutionRepository",
    "SagaFailedExecutionException",
    "SagaInfo",
    "SagaManager",
    "SagaNotFound",
    "SagaOperation",
    "SagaPastPivot",
    "SagaRequest",
    "SagaResponse",
    "SagaResponseStatus",
    "SagaResult",
    "SagaStatus",
    "SagaStepExecution",
    "SagaStuck",
    "SetupError",
    "StepStatus",
    "StoreError",
    "__version__",
    "saga_info",
    "saga_step",
]
