"""Every exception of the library, in one tree.

::

    SagaError (= SagaException)
      DefinitionError (ValueError)                    a mistake in a saga, found at commit or start
        EmptySagaException                            no steps
        SagaNotCommittedException                     commit() is missing
        AlreadyCommittedException                     changed after commit()
        SagaStepException
          SagaNotDefinedException                     a step that does not belong to a saga
          EmptySagaStepException                      no callback at all
          UndefinedOnExecuteException                 a compensation without an action
          AlreadyOnSagaException                      a step added twice
          MultipleOnExecuteException
          MultipleOnFailureException
          MultipleOnSuccessException
          MultipleOnErrorException
          MultipleElseThenException
      SetupError                                      the app or the store is not set up for sagas
      UnserializableValue (ValueError)                not JSON-serializable; names the key path
      ContextInvalid (ValueError)                     it does not fit the model of the saga
      ContextTooLarge (ValueError)                    more than saga_context_limit allows
      MissingInput (LookupError)                      a step needs a key that the context lacks
      BadStepResult (TypeError)                       a step returned what is not a valid result
      UnknownTarget (LookupError)                     a remote step's request has an unknown target
      SagaParticipantError                            a participant refuses a request
      SagaResponseException                           another service refused a request, or failed
      UnsendableStep                                  Celery cannot make a message of a step
      JoinConflict (ValueError)                       branches wrote different values of a key
      BadItems (ValueError)                           a loop over what is not a list, or too long
      SignalTimeout                                   a signal was not sent in time
      StoreError
        StoreUnavailable                              the store does not answer now
        PublishRefused                                 the store may not write to the broker
        UnreadableCheckpoint                          a saga's record is damaged
          UnsupportedCheckpoint                       written by a newer version
      AbortSaga                                       raised by a step: no retries, roll back
        BlockedByCompensation                         a barrier: its compensation ran before it
        BarrierPassedTwice                            one step entered a barrier twice
      SagaExecutionException
        SagaExecutionNotFoundException (LookupError)  no such saga id (= SagaNotFound)
        SagaAlreadyExists
        IllegalSagaId (ValueError)                    not a text that can be an id
        SagaPastPivot                                 too late to cancel
        SagaNotActionable                             a request that the saga's status rules out
        UnknownSignal (ValueError)                    the saga has no wait for it
        SagaStepExecutionException                    one step of a run
        SagaRollbackExecutionException                the rollback does not end by itself
        SagaFailedExecutionException                  raised by SagaResult.get(), manager.run()
          SagaFailedCommitCallbackException           of the Minos framework; never raised here
          SagaFailedExecutionStepException (SagaStepExecutionException)
            SagaCompensated                           rolled back
            SagaStuck (SagaRollbackExecutionException)  needs operator intervention

The names that end in ``Exception`` are those of the Minos framework's saga package, so that code
written for it keeps its ``except`` clauses.

The constructor arguments are ``args``, and ``__str__`` makes the text. An error therefore survives
pickling and the JSON form in which Celery stores it.
"""

from __future__ import annotations

from celery_saga.errors.base import (
    AbortSaga as AbortSaga,
)
from celery_saga.errors.base import (
    SagaError as SagaError,
)
from celery_saga.errors.base import (
    SagaException as SagaException,
)
from celery_saga.errors.definitions import (
    AlreadyCommittedException as AlreadyCommittedException,
)
from celery_saga.errors.definitions import (
    AlreadyOnSagaException as AlreadyOnSagaException,
)
from celery_saga.errors.definitions import (
    DefinitionError as DefinitionError,
)
from celery_saga.errors.definitions import (
    DefinitionWarning as DefinitionWarning,
)
from celery_saga.errors.definitions import (
    EmptySagaException as EmptySagaException,
)
from celery_saga.errors.definitions import (
    EmptySagaStepException as EmptySagaStepException,
)
from celery_saga.errors.definitions import (
    MultipleElseThenException as MultipleElseThenException,
)
from celery_saga.errors.definitions import (
    MultipleOnErrorException as MultipleOnErrorException,
)
from celery_saga.errors.definitions import (
    MultipleOnExecuteException as MultipleOnExecuteException,
)
from celery_saga.errors.definitions import (
    MultipleOnFailureException as MultipleOnFailureException,
)
from celery_saga.errors.definitions import (
    MultipleOnSuccessException as MultipleOnSuccessException,
)
from celery_saga.errors.definitions import (
    SagaNotCommittedException as SagaNotCommittedException,
)
from celery_saga.errors.definitions import (
    SagaNotDefinedException as SagaNotDefinedException,
)
from celery_saga.errors.definitions import (
    SagaStepException as SagaStepException,
)
from celery_saga.errors.definitions import (
    UndefinedOnExecuteException as UndefinedOnExecuteException,
)
from celery_saga.errors.runs import (
    IllegalSagaId as IllegalSagaId,
)
from celery_saga.errors.runs import (
    SagaAlreadyExists as SagaAlreadyExists,
)
from celery_saga.errors.runs import (
    SagaCompensated as SagaCompensated,
)
from celery_saga.errors.runs import (
    SagaExecutionException as SagaExecutionException,
)
from celery_saga.errors.runs import (
    SagaExecutionNotFoundException as SagaExecutionNotFoundException,
)
from celery_saga.errors.runs import (
    SagaFailedCommitCallbackException as SagaFailedCommitCallbackException,
)
from celery_saga.errors.runs import (
    SagaFailedExecutionException as SagaFailedExecutionException,
)
from celery_saga.errors.runs import (
    SagaFailedExecutionStepException as SagaFailedExecutionStepException,
)
from celery_saga.errors.runs import (
    SagaNotActionable as SagaNotActionable,
)
from celery_saga.errors.runs import (
    SagaNotFound as SagaNotFound,
)
from celery_saga.errors.runs import (
    SagaPastPivot as SagaPastPivot,
)
from celery_saga.errors.runs import (
    SagaRollbackExecutionException as SagaRollbackExecutionException,
)
from celery_saga.errors.runs import (
    SagaStepExecutionException as SagaStepExecutionException,
)
from celery_saga.errors.runs import (
    SagaStuck as SagaStuck,
)
from celery_saga.errors.runs import (
    UnknownSignal as UnknownSignal,
)
from celery_saga.errors.steps import (
    BadItems as BadItems,
)
from celery_saga.errors.steps import (
    BadStepResult as BadStepResult,
)
from celery_saga.errors.steps import (
    BarrierPassedTwice as BarrierPassedTwice,
)
from celery_saga.errors.steps import (
    BlockedByCompensation as BlockedByCompensation,
)
from celery_saga.errors.steps import (
    ContextInvalid as ContextInvalid,
)
from celery_saga.errors.steps import (
    ContextTooLarge as ContextTooLarge,
)
from celery_saga.errors.steps import (
    JoinConflict as JoinConflict,
)
from celery_saga.errors.steps import (
    MissingInput as MissingInput,
)
from celery_saga.errors.steps import (
    SagaParticipantError as SagaParticipantError,
)
from celery_saga.errors.steps import (
    SagaResponseException as SagaResponseException,
)
from celery_saga.errors.steps import (
    SignalTimeout as SignalTimeout,
)
from celery_saga.errors.steps import (
    UnknownTarget as UnknownTarget,
)
from celery_saga.errors.steps import (
    UnsendableStep as UnsendableStep,
)
from celery_saga.errors.steps import (
    UnserializableValue as UnserializableValue,
)
from celery_saga.errors.steps import (
    needs as needs,
)
from celery_saga.errors.stores import (
    PublishRefused as PublishRefused,
)
from celery_saga.errors.stores import (
    SetupError as SetupError,
)
from celery_saga.errors.stores import (
    StoreError as StoreError,
)
from celery_saga.errors.stores import (
    StoreUnavailable as StoreUnavailable,
)
from celery_saga.errors.stores import (
    UnreadableCheckpoint as UnreadableCheckpoint,
)
from celery_saga.errors.stores import (
    UnsupportedCheckpoint as UnsupportedCheckpoint,
)

# They have one home: what is recorded of an error, and pickled, names this package.
for _error in [each for each in vars().values() if isinstance(each, type)]:
    _error.__module__ = __name__
del _error
