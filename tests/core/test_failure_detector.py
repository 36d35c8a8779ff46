"""The failure detector, as tables: heartbeats and claims, and what follows from them."""

from __future__ import annotations

import pytest

from celery_saga.core.execution import Direction, StepRef
from celery_saga.core.recovery.failure_detector import OwnClaims, Steadiness, reclaimable
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.settings import Settings

#: A heartbeat each two seconds, which keeps its instance alive for six.
POLICY = RecoveryPolicy()
START, STORE = 1_000.0, 5_000.0

Heartbeats = list[tuple[float, float]]


def each_two_seconds(until: float, since: float = 0.0, ahead: float = 0.0) -> Heartbeats:
    """Worker's and store's time of heartbeats from ``since`` to ``until``."""
    count = int((until - since) / 2) + 1
    return [(since + 2 * n, since + 2 * n + ahead) for n in range(count)]


def steady_after(heartbeats: Heartbeats) -> bool:
    steadiness = Steadiness()
    for sent, there in heartbeats:
        steadiness = steadiness.after(START + sent, STORE + there, POLICY)
    return steadiness.is_steady(POLICY)


class TestSteadiness:
    @pytest.mark.parametrize(
        ("heartbeats", "steady"),
        [
            pytest.param([], False, id="none"),
            pytest.param([(0, 0)], False, id="the first"),
            pytest.param(each_two_seconds(6), False, id="six seconds: another may be about to"),
            pytest.param([*each_two_seconds(6), (6.9, 6.9)], False, id="a moment too early"),
            pytest.param([*each_two_seconds(6), (7, 7)], True, id="six and a half heartbeat"),
            pytest.param(each_two_seconds(8), True, id="eight seconds"),
            pytest.param(
                [*each_two_seconds(20), (24, 24)], True, id="a pause of four seconds is none"
            ),
            pytest.param(
                [*each_two_seconds(20), (24.1, 24.1)], False, id="more than four is a gap"
            ),
            pytest.param(
                [*each_two_seconds(20), *each_two_seconds(66, 60)], False, id="soon after an outage"
            ),
            pytest.param(
                [*each_two_seconds(20), *each_two_seconds(68, 60)], True, id="well after an outage"
            ),
            pytest.param(
                [*each_two_seconds(20), (22, 24)], True, id="a store that is two seconds ahead"
            ),
            pytest.param(
                [*each_two_seconds(20), (22, 24.1)], False, id="a leap of the store's clock"
            ),
            pytest.param(
                [*each_two_seconds(20), (22, -3_600)], True, id="a store whose clock is set back"
            ),
            pytest.param(
                [*each_two_seconds(20), *each_two_seconds(28, 22, 3_600)],
                False,
                id="soon after a leap",
            ),
            pytest.param(
                [*each_two_seconds(20), *each_two_seconds(30, 22, 3_600)],
                True,
                id="well after a leap",
            ),
        ],
    )
    def test_others_are_reclaimed_by_one_that_is_steady(self, heartbeats, steady):
        assert steady_after(heartbeats) is steady

    def test_a_gap_is_never_shorter_than_one_and_a_half_intervals(self):
        """Where an instance lives for little longer than an interval, all may be late."""
        policy = RecoveryPolicy(heartbeat_interval=2.0, instance_ttl=2.5)
        assert policy.gap == 3.0

    @pytest.mark.parametrize(
        ("expired", "alive", "steady", "found"),
        [
            pytest.param(["a", "b"], {"c"}, True, ("a", "b"), id="all that are dead"),
            pytest.param(["a", "b"], {"b"}, True, ("a",), id="not one that is back"),
            pytest.param(["a"], set(), False, (), id="none unless we are steady"),
            pytest.param([], {"a"}, True, (), id="none are dead"),
        ],
    )
    def test_whose_claims_may_be_reclaimed(self, expired, alive, steady, found):
        assert reclaimable(expired, alive, steady) == found


A, B = (
    ("s1", StepRef((0,), Direction.FORWARD, 1)),
    ("s2", StepRef((1,), Direction.COMPENSATION, 3)),
)
A_TASK, B_TASK = "s1~f0~1", "s2~c1~3"


class TestOwnClaims:
    @pytest.mark.parametrize(
        ("checks", "lost"),
        [
            pytest.param([((A, B), {A_TASK, B_TASK})] * 3, set(), id="both have tasks"),
            pytest.param([((A,), ())], set(), id="absent once"),
            pytest.param([((A,), ()), ((A,), ())], {A}, id="absent twice"),
            pytest.param([((A,), ()), ((A,), {A_TASK}), ((A,), ())], set(), id="not twice running"),
            pytest.param([((A,), ()), ((), ())], set(), id="ended meanwhile"),
            pytest.param([((A,), ()), ((A, B), ())], {A}, id="each by itself"),
            pytest.param([((A, B), {B_TASK}), ((A, B), {A_TASK})], set(), id="in turns"),
            pytest.param([((A, B), ())] * 2, {A, B}, id="several at once"),
            pytest.param([((), {A_TASK})] * 2, set(), id="a task without a claim"),
        ],
    )
    def test_a_claim_without_a_task_at_two_checks_is_lost(self, checks, lost):
        own, found = OwnClaims(), frozenset()
        for number, (claims, tasks) in enumerate(checks):
            own, found = own.check(START + 2 * number, claims, tasks, POLICY)
        assert found == lost

    def test_a_check_too_soon_after_another_is_none(self):
        """The first came late: the main process has had no time to report since."""
        own, _ = OwnClaims().check(START, (A,), (), POLICY)
        again, lost = own.check(START + 0.9, (A,), (), POLICY)
        assert (again, lost) == (own, frozenset())
        assert own.check(START + 1.0, (A,), (), POLICY)[1] == {A}


class TestPolicy:
    def test_it_is_that_of_the_default_settings(self):
        assert RecoveryPolicy.of(Settings()) == POLICY

    def test_what_follows_from_the_settings(self):
        policy = RecoveryPolicy(heartbeat_interval=4.0, instance_ttl=12.0)
        assert (policy.gap, policy.clock_leap, policy.steady_after) == (8.0, 4.0, 14.0)
        assert (policy.own_claims_interval, policy.known_after) == (2.0, 8.0)
        assert policy.sweep_time == 4.0

    def test_a_loss_is_found_within_ten_seconds(self):
        """A message that is lost right after a check; and the claims of a worker that dies."""
        assert 2 * POLICY.check_interval + POLICY.heartbeat_interval <= 10.0
        assert POLICY.instance_ttl + POLICY.heartbeat_interval <= 10.0
        assert POLICY.steady_after + POLICY.heartbeat_interval <= 10.0
