"""``SagaManager(app)`` anywhere: each case is proven by a saga that runs, compensation and all."""

from __future__ import annotations

import itertools

import pytest
from celery import Celery, Task, shared_task

from celery_saga import Saga, SagaManager, saga_info, saga_step
from celery_saga.worker.hook import hooked, verify

pytestmark = pytest.mark.worker

_names = itertools.count()


class Settings:
    task_always_eager = True
    saga_store_url = "memory://"
    saga_max_redeliveries = 7


def new_app(**options):
    return Celery(f"app{next(_names)}", set_as_current=False, **options)


def declare(app, **options):
    """A task that fails on demand, and its compensation; both say whether they ran in a saga."""
    seen = []

    @app.task(name=f"{app.main}.do", shared=False, **options)
    def do(fail=False):
        seen.append(saga_info().direction if saga_info().saga_id else None)
        if fail:
            raise ValueError("on demand")

    @app.task(name=f"{app.main}.compensation", shared=False)
    def compensation():
        seen.append(saga_info().direction if saga_info().saga_id else None)

    return do, compensation, seen


def assert_sagas_run(app, do, compensation, seen):
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    saga = Saga(app.main, app=app)
    saga.local_step(do, name="a", inputs=[]).on_failure(compensation)
    saga.local_step(do, name="b").on_failure(compensation)
    saga.commit()

    assert saga.delay().get(timeout=1) == {}
    assert saga.delay(fail=True).context == {"fail": True}
    assert seen == ["f", "f", "f", "f", "c"]


class TestOrder:
    def test_before_the_configuration(self):
        app = new_app()
        SagaManager(app)
        app.config_from_object(Settings)

        assert_sagas_run(app, *declare(app))
        assert app.conf.saga_max_redeliveries == 7
        assert app.conf.saga_heartbeat == 2.0

    def test_after_the_configuration(self):
        app = new_app()
        app.config_from_object(Settings)
        SagaManager(app)

        assert_sagas_run(app, *declare(app))
        assert app.conf.saga_max_redeliveries == 7

    def test_between_two_configurations(self):
        app = new_app()
        app.config_from_object({"saga_max_redeliveries": 1})
        assert app.conf.saga_max_redeliveries == 1  # read
        SagaManager(app)
        app.config_from_object(Settings, force=True)

        assert_sagas_run(app, *declare(app))
        assert (app.conf.saga_max_redeliveries, app.conf.saga_heartbeat) == (7, 2.0)

    def test_a_namespace(self):
        app = new_app()
        SagaManager(app)
        app.config_from_object(
            {"CELERY_SAGA_MAX_REDELIVERIES": 5, "CELERY_TIMEZONE": "UTC"}, namespace="CELERY"
        )
        assert (app.conf.saga_max_redeliveries, app.conf.saga_heartbeat) == (5, 2.0)

    def test_after_tasks_were_declared(self):
        app = new_app()
        parts = declare(app)
        SagaManager(app)
        assert_sagas_run(app, *parts)

    @pytest.mark.parametrize("finalized", [True, False])
    def test_after_tasks_were_touched(self, finalized):
        app = new_app()
        parts = declare(app)
        assert parts[0].__bound__
        if finalized:
            app.finalize()
        SagaManager(app)
        assert_sagas_run(app, *parts)

    def test_after_the_configuration_was_read(self):
        app = new_app()
        assert app.conf.task_annotations is None
        SagaManager(app)
        assert_sagas_run(app, *declare(app))

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_with_an_update_of_annotations(self, when):
        app = new_app()
        if when == "before":
            app.conf.update(task_annotations={"*": {"marked": True}})
        SagaManager(app)
        if when == "after":
            app.conf.update(task_annotations={"*": {"marked": True}})
        parts = declare(app)
        assert_sagas_run(app, *parts)
        assert parts[0].marked is True

    @pytest.mark.parametrize("annotation", ["@__call__", "__call__"])
    @pytest.mark.parametrize("which", ["*", "do"])
    def test_users_who_annotate_calls_themselves(self, annotation, which):
        calls = []
        app = new_app()
        SagaManager(app)

        def own(task, *args, **kwargs):
            calls.append(task.name)
            return task.run(*args, **kwargs)

        def around(call):
            def annotated(task, *args, **kwargs):
                calls.append(task.name)
                return call(task, *args, **kwargs)

            return annotated

        key = "*" if which == "*" else f"{app.main}.do"
        app.conf.task_annotations = {key: {annotation: own if annotation == "__call__" else around}}
        assert_sagas_run(app, *declare(app))
        assert calls.count(f"{app.main}.do") == 4
        assert calls.count(f"{app.main}.compensation") == (1 if which == "*" else 0)


class TestTasks:
    def test_registered_classes_before_and_after_finalize(self):
        app = new_app()
        SagaManager(app)

        class Early(Task):
            name = f"{app.main}.early"

            def run(self):
                return {"early": saga_info().step}

        class Late(Task):
            name = f"{app.main}.late"

            def __call__(self, *args, **kwargs):
                return {**super().__call__(*args, **kwargs), "called": True}

            def run(self):
                return {"late": saga_info().step}

        early = app.register_task(Early())
        app.finalize()
        late = app.register_task(Late())
        app.conf.update(task_always_eager=True, saga_store_url="memory://")
        saga = Saga("classes", app=app, steps=[early, late]).commit()

        assert saga.delay().get(timeout=1) == {"early": "early", "late": "late", "called": True}

    def test_tasks_that_inherit_from_a_hooked_one(self):
        app = new_app()
        SagaManager(app)

        class Parent(Task):
            name = f"{app.main}.parent"

            def run(self):
                return {self.name.rpartition(".")[2]: saga_info().step}

        parent = app.register_task(Parent())

        class Child(Parent):
            name = f"{app.main}.child"

            def __call__(self, *args, **kwargs):
                return {**super().__call__(*args, **kwargs), "called": True}

        child = app.register_task(Child())
        verify(app)  # as a worker does when it starts
        app.conf.update(task_always_eager=True, saga_store_url="memory://")
        saga = Saga("heirs", app=app, steps=[parent, child]).commit()

        assert saga.delay().get(timeout=1) == {
            "parent": "parent",
            "child": "child",
            "called": True,
        }

    def test_functions_and_lambdas_that_many_sagas_share(self, recwarn):
        app = new_app()
        manager = SagaManager(app)
        manager.register(shared_function)
        manager.register(shared_function)
        app.conf.update(task_always_eager=True, saga_store_url="memory://")
        for name in ("one", "two"):
            saga = Saga(name, app=app)
            saga.local_step(shared_function, read_only=True)
            saga.commit()
            assert saga.delay().get(timeout=1) == {"shared": True}
        assert [str(w.message) for w in recwarn if "shared_function" in str(w.message)] == []


def shared_function(context):
    context.shared = True


class TestSeveral:
    def test_two_managers_on_one_app_are_one_engine(self):
        app = new_app()
        one, two = SagaManager(app), SagaManager(app)
        do, compensation, seen = declare(app)
        assert_sagas_run(app, do, compensation, seen)

        result = Saga("two", steps=[do]).commit().delay()
        assert one.get(result.id) == two.get(result.id)
        assert len(seen) == 6  # wrapped once: the body ran once

    def test_two_apps_in_one_process_are_two_engines(self):
        first, second = new_app(), new_app()
        managers = [SagaManager(app) for app in (first, second)]
        parts = [declare(app) for app in (first, second)]
        for app, part in zip((first, second), parts, strict=True):
            assert_sagas_run(app, *part)

        result = Saga("one", steps=[parts[0][0]]).commit().delay()
        assert managers[0].get(result.id).successful()
        with pytest.raises(LookupError):
            managers[1].get(result.id)

    def test_an_app_without_a_manager_beside_one_with(self):
        with_manager, without = new_app(), new_app()
        SagaManager(with_manager)
        assert_sagas_run(with_manager, *declare(with_manager))
        do, *_ = declare(without)
        do()
        assert not hooked(type(without.tasks[f"{without.main}.do"]))


class TestLaziness:
    def test_the_constructor_reads_no_configuration_and_finalizes_nothing(self):
        app = new_app(config_source="no.such.module")
        SagaManager(app)
        assert (app.configured, app.finalized) == (False, False)

    def test_building_a_saga_at_import_finalizes_nothing(self):
        app = new_app()
        SagaManager(app)
        do, compensation, _ = declare(app)
        decorated = saga_step(compensation=compensation)(do)

        @saga_step
        @shared_task(name=f"{app.main}.shared")
        def shared():
            pass

        Saga("lazy", steps=[decorated, shared]).commit()

        assert decorated is do
        assert (app.configured, app.finalized) == (False, False)
