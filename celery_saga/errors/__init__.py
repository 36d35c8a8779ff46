"""Every exception of the library, in one tree.

::

    SagaError (= SagaException)
      DefinitionError (ValueError)                    a mistake in a saga, found at commit or start
        EmptySagaException                            no steps
        SagaNotCommittedException                     commit() is missing
        AlreadyCommittedException                     changed after commit()
        SagaStepException
          SagaNotDefinedException                     a step that belongs to no saga
          EmptySagaStepException                      no callback at all
          UndefinedOnExecuteException                 an undo without a do
          AlreadyOnSagaException                      a step added twice
          MultipleOnExecuteException
          MultipleOnFailureException
      SetupError                                      the app or the store is not set up for sagas
      UnserializableValue (ValueError)                JSON cannot carry it; names the key path
      ContextTooLarge (ValueError)                    more than saga_context_limit allows
      MissingInput (LookupError)                      a step needs a key that the context lacks
      BadStepResult (TypeError)                       what a step returned cannot be its result
      UnsendableStep                                Celery cannot make a message of a step
      StoreError
        StoreUnavailable                              the store does not answer now
        OutboxRefused                                 the store may not write to the broker
        UnreadableCheckpoint                          a saga's record is damaged
          UnsupportedCheckpoint                       written by a newer version
      AbortSaga                                       raised by a step: no retries, go back
        BlockedByUndo                                 a barrier: its undo came before it
        BarrierPassedTwice                            one step went through a barrier twice
      SagaExecutionException
        SagaExecutionNotFoundException (LookupError)  no such saga id (= SagaNotFound)
        SagaAlreadyExists
        IllegalSagaId (ValueError)                    no text that can be an id
        SagaPastPivot                                 too late to cancel
        SagaNotActionable                             a verb that the saga's status does not allow
        SagaStepExecutionException                    one step of a run
        SagaRollbackExecutionException                the way back does not end by itself
        SagaFailedExecutionException                  raised by SagaResult.get(), manager.run()
          SagaFailedCommitCallbackException           Minos's own; nothing here raises it
          SagaFailedExecutionStepException (SagaStepExecutionException)
            SagaCompensated                           undone
            SagaStuck (SagaRollbackExecutionException)  a person is needed

The names that end in ``Exception`` are those of the Minos framework's saga package, so that code
written for it keeps its ``except`` clauses.

Constructor arguments are ``args``, and the text is made in ``__str__``: an error therefore survives
pickling and the JSON form in which Celery stores it.
"""

from __future__ import annotations

from celery_saga.errors.preparing import (
    AlreadyCommittedException,
    AlreadyOnSagaException,
    BadStepResult,
    ContextTooLarge,
    DefinitionError,
    DefinitionWarning,
    EmptySagaException,
    EmptySagaStepException,
    MissingInput,
    MultipleOnExecuteException,
    MultipleOnFailureException,
    OutboxRefused,
    SagaError,
    SagaException,
    SagaNotCommittedException,
    SagaNotDefinedException,
    SagaStepException,
    SetupError,
    StoreError,
    StoreUnavailable,
    UndefinedOnExecuteException,
    UnreadableCheckpoint,
    UnsendableStep,
    UnserializableValue,
    UnsupportedCheckpoint,
)
from celery_saga.errors.running import (
    AbortSaga,
    BarrierPassedTwice,
    BlockedByUndo,
    IllegalSagaId,
    SagaAlreadyExists,
    SagaCompensated,
    SagaExecutionException,
    SagaExecutionNotFoundException,
    SagaFailedCommitCallbackException,
    SagaFailedExecutionException,
    SagaFailedExecutionStepException,
    SagaNotActionable,
    SagaNotFound,
    SagaPastPivot,
    SagaRollbackExecutionException,
    SagaStepExecutionException,
    SagaStuck,
)

__all__ = [
    "AbortSaga",
    "AlreadyCommittedException",
    "AlreadyOnSagaException",
    "BadStepResult",
    "BarrierPassedTwice",
    "BlockedByUndo",
    "ContextTooLarge",
    "DefinitionError",
    "DefinitionWarning",
    "EmptySagaException",
    "EmptySagaStepException",
    "IllegalSagaId",
    "MissingInput",
    "MultipleOnExecuteException",
    "MultipleOnFailureException",
    "OutboxRefused",
    "SagaAlreadyExists",
    "SagaCompensated",
    "SagaError",
    "SagaException",
    "SagaExecutionException",
    "SagaExecutionNotFoundException",
    "SagaFailedCommitCallbackException",
    "SagaFailedExecutionException",
    "SagaFailedExecutionStepException",
    "SagaNotActionable",
    "SagaNotCommittedException",
    "SagaNotDefinedException",
    "SagaNotFound",
    "SagaPastPivot",
    "SagaRollbackExecutionException",
    "SagaStepException",
    "SagaStepExecutionException",
    "SagaStuck",
    "SetupError",
    "StoreError",
    "StoreUnavailable",
    "UndefinedOnExecuteException",
    "UnreadableCheckpoint",
    "UnsendableStep",
    "UnserializableValue",
    "UnsupportedCheckpoint",
]

# The name by which people import them is the one that is recorded, pickled and shown.
for _name in __all__:
    globals()[_name].__module__ = __name__
