"""The invariants of the engine, by the numbers that they have in ``docs/guarantees.md``.

The simulator (:mod:`tests.simulator`) and the walk (:mod:`tests.core.walk`) check them. A violation
carries the invariant that was broken; ``docs/guarantees.md`` says in words what it is.
"""

from __future__ import annotations

from enum import Enum


class Invariant(Enum):
    """What holds in every state and after every event; the value is the number."""

    ONE_ACTIVE_STEP = "I1"
    CLAIM_BEFORE_BODY = "I2"
    CLAIM_FOR_REPORT = "I3"
    CLAIM_KEPT = "I4"
    NEW_EPOCH = "I5"
    REVISION = "I6"
    SAVED_BEFORE_SENT = "I7"
    DECIDE_IS_TOTAL = "I8"
    REVERSE_ORDER = "I9"
    NO_COMPENSATION_UNDER_CLAIM = "I10"
    PIVOT = "I11"
    COMPENSATED_FOR_A_REASON = "I12"
    AT_MOST_ONCE = "I13"
    LATE_EFFECT = "I14"
    IDEMPOTENCY_KEY = "I15"
    CANCEL = "I16"
    PAUSE = "I17"
    COMPLETED = "I18"
    COMPENSATED = "I19"
    STUCK = "I20"
    SETTLED_STAYS = "I21"
    RESULT = "I22"
    CALLERS = "I23"
    SENT_AGAIN = "I24"
    CAPS = "I25"
    SETTLES = "I26"
    ONE_SAGA = "I27"
    JOINED_ONCE = "I28"
    BRANCHES_STOP = "I29"
    JOURNAL = "I30"
    ONE_ANSWER = "I31"
    ITEMS_FIXED = "I32"
    SCOPES = "I33"
    INPUTS_AS_OF_STEP = "I34"
    WAITS = "I35"

    def __str__(self) -> str:
        return self.value
