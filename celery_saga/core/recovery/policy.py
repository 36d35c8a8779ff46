"""The times and limits of recovery, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from celery_saga.settings import Settings


@dataclass(frozen=True)
class RecoveryPolicy:
    """Every constant of recovery; in seconds where no other unit is given.

    The reason for most of them: a lost message, claim or worker that a saga waits for is found
    within ten seconds of its loss.
    """

    # The failure detector: which worker instances are alive, and whose claims are reclaimed.

    #: From one heartbeat to the next (``saga_heartbeat``). An idle worker reads the store that
    #: often too, so it is as long as ten seconds permit.
    heartbeat_interval: float = Settings.heartbeat
    #: For how long a heartbeat keeps its instance alive (``saga_heartbeat_ttl``). Three intervals:
    #: one heartbeat may be late and one may be lost.
    instance_ttl: float = Settings.heartbeat_ttl
    #: The part of ``instance_ttl`` by which the store's clock may run ahead of the worker's between
    #: two heartbeats. More is a leap, as when a replica takes over.
    clock_leap_share: float = 1 / 3
    #: Heartbeats after which the store surely knows which messages a live worker has received. Two,
    #: because one may be late.
    heartbeats_until_known: float = 2.0
    #: For how long an instance that has ended and holds nothing is retained. A process of it that
    #: survives may still claim, and that claim must be reclaimed as well. A day is longer than such
    #: a process survives.
    instance_retention: float = 86400.0

    #: For how long a fork of the worker waits for calls of the heartbeat's threads. A call that
    #: takes longer waits for a server that is unavailable, and the worker must continue.
    fork_wait: float = 2.0

    # The sweep: overdue checks.

    #: How many sagas one sweep checks (``saga_sweep_limit``). At 0.2 ms each, a thousand leave a
    #: processor nine tenths of its time.
    sweep_limit: int = Settings.sweep_limit
    #: Heartbeats after which the rest of a sweep is left to the next. Reports of the worker wait
    #: for the same thread, and what is left stays due.
    sweep_heartbeats: float = 1.0
    #: From one check of a live saga to the next. Half of the promised ten seconds, less a
    #: heartbeat: a message that is lost right after a check is found by the next but one.
    check_interval: float = 4.0
    #: The same for a saga whose step runs. The end of the claim makes the saga due, and a dead
    #: worker's claims are found by its instance. So this check is for unforeseen cases only.
    claimed_check_interval: float = 60.0
    #: The same for a saga that waits for a signal, for as long as it takes. The signal itself
    #: continues it, so this check is for unforeseen cases only, and such sagas may be many.
    wait_check_interval: float = 3600.0
    #: For how long the sweep skips a saga that it could not check, so that it does not delay the
    #: others. The cause usually persists: an unreadable record, or a saga of another app.
    skip_time: float = 60.0

    # Messages that no worker has claimed.

    #: A message that may still be queued is sent again after this time, which doubles with each
    #: further time. Its queue may be consumed for other messages only, or the worker may have
    #: passed it to a process that hangs; both are rare.
    possibly_queued_delay: float = 30.0
    #: Where that doubling ends.
    possibly_queued_delay_max: float = 300.0
    #: The same in a queue that holds many messages. Copies of all of them would make a backlog
    #: longer still, and a dead worker is detected in another way.
    backlogged_delay: float = 300.0
    #: Where that doubling ends.
    backlogged_delay_max: float = 3600.0
    #: How often a missing message is sent again after one check's interval, because a lost message
    #: must be recovered that fast. Then the delay doubles: the message may be what ends the workers
    #: that receive it, or workers without the plugin may receive it.
    missing_at_once: int = 2
    #: Where that doubling ends.
    missing_delay_max: float = 60.0
    #: For how long an earlier missing message is remembered: its saga has continued since then.
    missing_retention: float = 60.0
    #: From which resend of a missing message on it is logged: the first may follow a plain loss.
    resends_logged_from: int = 2
    #: How often resends make the engine check which workers lack the plugin. The command goes to
    #: all workers, and its replies seldom change.
    workers_asked_interval: float = 60.0
    #: For how long one such command waits for replies. The sweep waits with it, and a normal worker
    #: replies within milliseconds.
    workers_asked_timeout: float = 1.0

    # Steps and results that are retried.

    #: The least time from one start of a step to the next after it was lost twice, doubling with
    #: each further loss: a step that ends its process each time must not be repeated at full speed.
    #: Counted from the start, so that a step which ran for longer is not delayed.
    lost_delay: float = 4.0
    #: Where that doubling ends.
    lost_delay_max: float = 60.0
    #: From one offer of a task that no worker knows to the next, doubling: workers that know it may
    #: be deployed soon.
    unknown_task_delay: float = 5.0
    #: Where that doubling ends.
    unknown_task_delay_max: float = 60.0
    #: The pause before a result is stored again doubles from ``check_interval`` up to this: an
    #: unavailable result backend is not called more often for each saga that has ended.
    result_delay_max: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> RecoveryPolicy:
        """Return the policy of an app, by its settings."""
        return cls(
            heartbeat_interval=settings.heartbeat,
            instance_ttl=settings.heartbeat_ttl,
            sweep_limit=settings.sweep_limit,
        )

    @property
    def gap(self) -> float:
        """The pause between two heartbeats after which other instances may only look dead.

        When all stop, another's last heartbeat may have been an interval before this one's. But it
        is at least one and a half intervals: a heartbeat may be late by a half.
        """
        return max(self.instance_ttl - self.heartbeat_interval, 1.5 * self.heartbeat_interval)

    @property
    def clock_leap(self) -> float:
        """By how much the store's clock may run ahead of the worker's between two heartbeats."""
        return self.instance_ttl * self.clock_leap_share

    @property
    def steady_after(self) -> float:
        """For how long heartbeats are steady before claims of others are reclaimed.

        By then each live instance has sent one since the last gap. The half interval is for the
        jitter of heartbeats.
        """
        return self.instance_ttl + self.heartbeat_interval / 2

    @property
    def own_claims_interval(self) -> float:
        """From one check of an instance's own claims to the next, at least.

        A late check must not make the next one come too soon: the main process requires the
        time between two of them to report the end of a task.
        """
        return self.heartbeat_interval / 2

    @property
    def known_after(self) -> float:
        """Time within which the store has the messages that a live worker has received."""
        return self.heartbeats_until_known * self.heartbeat_interval

    @property
    def sweep_time(self) -> float:
        """Time after which the rest of a sweep is left to the next."""
        return self.sweep_heartbeats * self.heartbeat_interval


#: The policy of an app with default settings. Values that do not depend on settings are the same
#: for all apps.
POLICY = RecoveryPolicy()
