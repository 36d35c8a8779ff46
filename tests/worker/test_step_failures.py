"""How steps fail, which of them are undone, and what their undos are called with."""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaCompensated, SagaStuck
from tests.worker.apps.constants import QUICK_UNDO

pytestmark = pytest.mark.worker


@pytest.fixture
def outcomes(flows):
    from tests.worker.apps import outcomes

    return outcomes


@pytest.fixture
def start(outcomes):
    """Start a saga of ``(task, undo)`` pairs; a third member holds options of the step."""

    def start(*steps, saga_name="outcomes", undo_options=QUICK_UNDO, **context):
        saga = Saga(saga_name, app=outcomes.app)
        for name, (task, undo, *options) in zip("abcdef", steps, strict=False):
            step = saga.local_step(task, name=name, **(options[0] if options else {}))
            if undo is not None:
                step.on_failure(undo, **undo_options)
        return saga.commit().delay(**context)

    return start


class TestWhichStepsAreUndone:
    def test_completed_steps_are_undone_in_reverse_order_and_the_failed_one_is_not(
        self, start, outcomes, journal
    ):
        do, undo = outcomes.do, outcomes.undo
        result = start((do, undo), (do, None), (do, undo), (outcomes.ends, undo), how="declined")

        with pytest.raises(SagaCompensated, match=r"at step 'd'.*Declined: declined"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "b/f", "c/f", "d/f", "c/c", "a/c"]
        assert list(result.progress.values()) == [
            "COMPENSATED",
            "SUCCEEDED",
            "COMPENSATED",
            "FAILED",
        ]

    @pytest.mark.parametrize("how", ["declined", "abort", "ignore", "reject"])
    def test_clean_errors_are_the_steps_word_that_nothing_happened(
        self, start, outcomes, journal, how
    ):
        result = start((outcomes.do, outcomes.undo), (outcomes.ends, outcomes.undo), how=how)

        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "b/f", "a/c"]

    @pytest.mark.parametrize(
        ("option", "how", "undone"),
        [
            (True, "declined", True),
            ("Unsure", "unsure", True),
            ("Unsure", "very unsure", True),
            ("Unsure", "declined", False),
        ],
    )
    def test_compensate_on_failure(self, start, outcomes, journal, option, how, undone):
        classes = outcomes.Unsure if option == "Unsure" else option
        options = {"compensate_on_failure": classes}
        result = start((outcomes.ends, outcomes.undo, options), how=how)

        result.get(timeout=30, propagate=False)
        assert journal.began(result.id) == (["a/f", "a/c"] if undone else ["a/f"])

    @pytest.mark.parametrize(
        ("task", "error"),
        [
            ("over_soft_limit", "SoftTimeLimitExceeded"),
            ("over_hard_limit", "celery.exceptions.TimeLimitExceeded"),
            ("unusable", "UnserializableValue"),
            ("bad_context", "step 'a': expected a SagaContext, a mapping, None or True, found int"),
            ("unusable_context", "UnserializableValue"),
        ],
    )
    def test_a_step_that_ran_and_has_no_usable_answer_is_undone(
        self, outcomes, journal, task, error
    ):
        from tests.worker.apps import failing

        result = failing.SAGAS[task].delay()

        with pytest.raises(SagaCompensated, match=error) as caught:
            result.get(timeout=30)
        assert caught.value.step == "a"
        assert journal.began(result.id) == ["a/f", "a/c"]

    def test_abort_is_not_retried(self, start, outcomes, journal):
        result = start((outcomes.do, outcomes.undo), (outcomes.aborts_under_autoretry, None))

        with pytest.raises(SagaCompensated, match="no way"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "b/f", "a/c"]

    def test_replace_is_refused(self, start, outcomes, journal):
        result = start((outcomes.replaces, outcomes.undo))

        with pytest.raises(SagaCompensated, match=r"replace\(\) inside a step"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f"]


class TestMissingInput:
    def test_mid_saga_fails_the_step_before_its_body(self, start, outcomes, journal):
        result = start((outcomes.do, outcomes.undo), (outcomes.needs, None), other=1)

        with pytest.raises(SagaCompensated, match=r"step 'b' needs 'value'"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "a/c"]
        assert result.execution.error.type == "celery_saga.errors.MissingInput"

    def test_arguments_that_the_task_does_not_take_fail_the_step(self, start, outcomes, journal):
        """The caller knows the task by its name only, and was wrong about its parameters."""
        options = {"inputs": ["one"]}
        result = start(
            (outcomes.do, outcomes.undo), ("elsewhere.two_needed", outcomes.undo, options), one=1
        )

        with pytest.raises(SagaCompensated, match=r"TypeError: .*missing 1 required"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "a/c"]


class TestUndo:
    def test_it_gets_its_arguments_from_the_context_and_its_own_steps_result(
        self, start, outcomes, journal
    ):
        result = start(
            (outcomes.do, outcomes.undo_with, {"returns": "receipt"}),
            (outcomes.ends, None),
            how="declined",
            value="r1",
        )

        result.get(timeout=30, propagate=False)
        undo = journal.said(result.id, "began")[-1]
        assert (undo["receipt"], undo["other"]) == ("r1", "default")
        assert undo["direction"] == "c"
        assert undo["idempotency_key"] == f"{result.id}/a/c/0"
        assert undo["forward"] == undo["forward_key"] == f"{result.id}/a/f/0"
        assert result.context == {"how": "declined", "value": "r1", "receipt": "r1"}

    def test_in_context_style_it_sees_the_context_after_the_last_completed_step(
        self, outcomes, journal
    ):
        from tests.worker.apps import failing

        result = failing.SAGAS["context_undo"].delay(how="declined")

        result.get(timeout=30, propagate=False)
        undo = journal.said(result.id, "began")[-1]
        assert undo["seen"] == {"how": "declined", "value": "from the step"}

    def test_it_is_retried_with_backoff_and_the_same_key(self, start, outcomes, journal):
        result = start((outcomes.do, outcomes.undo_twice), (outcomes.ends, None), how="declined")

        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        undos = journal.said(result.id, "began")[2:]
        assert [undo["attempt"] for undo in undos] == [1, 2, 3]
        assert {undo["idempotency_key"] for undo in undos} == {f"{result.id}/a/c/0"}

    def test_its_own_autoretry_comes_first(self, start, outcomes, journal):
        result = start(
            (outcomes.do, outcomes.undo_with_autoretry), (outcomes.ends, None), how="declined"
        )

        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        assert len(journal.said(result.id, "began")) == 5
        assert result.execution.steps[0].attempts == 0

    @pytest.mark.parametrize(("undo", "times"), [("undo_never", 3), ("undo_aborts", 1)])
    def test_one_that_fails_for_good_leaves_the_saga_stuck_after_all_others(
        self, start, outcomes, journal, undo, times
    ):
        failing = getattr(outcomes, undo)
        result = start(
            (outcomes.do, outcomes.undo),
            (outcomes.do, failing),
            (outcomes.do, outcomes.undo),
            (outcomes.ends, None),
            how="declined",
            undo_options={**QUICK_UNDO, "max_attempts": 3},
        )

        with pytest.raises(SagaStuck, match="'b'") as caught:
            result.get(timeout=30)
        began = journal.began(result.id)
        assert began[3:] == ["d/f", "c/c", *["b/c"] * times, "a/c"]
        execution = result.execution
        assert "Declined" in execution.error.type
        assert execution.steps[1].undo_error.message in str(caught.value)
        assert "Declined" in str(caught.value)
        assert result._runtime.store.client.ttl(f"saga:execution:{result.id}") == -1

    def test_one_that_lacks_what_only_its_lost_step_could_give_leaves_the_saga_stuck(
        self, start, outcomes, journal
    ):
        with pytest.warns(UserWarning, match="'receipt'"):
            result = start((outcomes.over_hard_limit, outcomes.undo_needs, {"returns": "receipt"}))

        with pytest.raises(SagaStuck, match="'receipt'"):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f"]


def test_a_step_that_ran_out_of_memory_is_undone(site):
    """A worker of its own: Celery ends the worker's main process after a MemoryError."""
    site.worker(app="tests.worker.apps.functional")
    saga = Saga("memory", app=site.app)
    step = saga.local_step("tests.worker.apps.outcomes.ends", name="a", inputs=["how"])
    step.on_failure("tests.worker.apps.outcomes.undo", inputs=[])
    result = saga.commit().delay(how="memory")
    site.journal.wait(result.id, "began")
    site.worker(app="tests.worker.apps.functional")

    assert site.settled(result) == "COMPENSATED"
    assert site.journal.began(result.id) == ["a/f", "a/c"]
