"""``SagaManager`` as it is called: with an app, in the words of the original, or wrongly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from celery import Celery, current_app
from kombu import Connection

from celery_saga import (
    DefinitionError,
    Saga,
    SagaAlreadyExists,
    SagaExecution,
    SagaExecutionRepository,
    SagaManager,
    SagaStatus,
    SetupError,
)
from celery_saga.stores.memory import MemoryStore


def new_app(name: str = "shop", **conf: Any) -> Celery:
    app = Celery(name, broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, **conf)
    return app


def run_one(app: Celery, **context: Any) -> Any:
    """A saga of one task, eagerly."""

    @app.task(name=f"{app.main}.double", shared=False)
    def double(number: int) -> dict[str, int]:
        return {"number": number * 2}

    return Saga("double", steps=[double]).commit().delay(**context)


class TestStorage:
    def test_a_store_is_used_as_it_is(self) -> None:
        app, store = new_app(), MemoryStore()
        SagaManager(app, storage=store)
        result = run_one(app, number=4)
        assert result.context == {"number": 8}
        assert store.load(result.id) is not None

    def test_a_url_goes_before_the_setting(self) -> None:
        app = new_app(saga_store_url="redis://nowhere.invalid/0")
        SagaManager(app, storage="memory://")
        assert run_one(app, number=4).get(timeout=1) == {"number": 8}

    def test_each_app_has_its_own(self) -> None:
        stores = [MemoryStore(), MemoryStore()]
        results = []
        for number, store in enumerate(stores):
            app = new_app(f"shop{number}")
            SagaManager(app, storage=store)
            results.append(run_one(app, number=number))
        assert stores[0].load(results[0].id) is not None
        assert stores[1].load(results[0].id) is None
        assert stores[0].load(results[1].id) is None

    def test_nothing_is_read_and_nothing_connects_when_it_is_named(self) -> None:
        app = Celery("lazy", set_as_current=False, config_source="no.such.module")
        SagaManager(app, storage="redis://nowhere.invalid/0")
        assert not app.configured

    @pytest.mark.parametrize(
        ("storage", "found"),
        [
            ("postgresql://user:secret@host/db", r"a redis://.* URL, found postgresql://\.\.\."),
            ("localhost", "URL, found no URL"),
            ("", "URL, found no URL"),
            (redis.Redis(), r"found a Redis; wrap it: celery_saga\.stores\.redis\.RedisStore"),
            (
                object(),
                r"found a object; this lacks 'endpoint' .*celery_saga\.core\.ports\.Store",
            ),
            (MemoryStore, "make an object of the class"),
            (7, "found a int"),
            ({"url": "redis://"}, "found a dict"),
        ],
    )
    def test_what_is_not_a_store(self, storage: Any, found: str) -> None:
        with pytest.raises(SetupError, match=found) as caught:
            SagaManager(new_app(), storage=storage)
        assert "secret" not in str(caught.value)
        assert "storage" in str(caught.value)


class TestSecondManager:
    def test_with_the_same_storage_or_none_it_is_another_handle(self) -> None:
        app, store = new_app(), MemoryStore()
        first = SagaManager(app, storage=store)
        result = run_one(app, number=1)
        for second in (SagaManager(app), SagaManager(app, storage=store)):
            assert second.get(result.id) == first.get(result.id) == result
        named = new_app("named")
        SagaManager(named, storage="memory://")
        SagaManager(named, storage="memory" + "://")

    @pytest.mark.parametrize(
        ("first", "second", "text"),
        [
            (None, "memory://", "'shop' has a SagaManager with no storage="),
            ("memory://", "redis://localhost/1", "with another storage="),
            ("memory://", MemoryStore(), "with another storage="),
            (MemoryStore(), MemoryStore(), "with another storage="),
        ],
    )
    def test_with_another_storage_it_is_refused(self, first: Any, second: Any, text: str) -> None:
        app = new_app()
        SagaManager(app, storage=first)
        with pytest.raises(SetupError, match=text):
            SagaManager(app, storage=second)


class TestWordsOfTheOriginal:
    def test_keywords_alone(self) -> None:
        app, store = new_app(), MemoryStore()
        manager = SagaManager(storage=store, broker_pool=app)
        assert manager.app is app
        assert run_one(app, number=1).id
        assert SagaManager(broker_pool=app).app is app
        assert SagaManager(app, broker_pool=app).app is app

    def test_a_repository_is_the_apps_own_store(self) -> None:
        app = new_app(saga_store_url="memory://")
        repo = SagaExecutionRepository(app)
        manager = SagaManager(storage=repo, broker_pool=app)
        result = run_one(app, number=3)
        assert manager.get(result.id).context == {"number": 6}
        assert asyncio.run(repo.load(result.id)).context == {"number": 6}
        assert SagaManager(storage=repo).app is app

    def test_the_current_app(self) -> None:
        app = Celery("current")
        assert SagaManager(current_app).app is app
        assert SagaManager(app, broker_pool=current_app).app is app

    def test_no_app_or_several(self) -> None:
        one, two = new_app("one"), new_app("two")
        for call in (lambda: SagaManager(), lambda: SagaManager(storage="memory://")):
            with pytest.raises(SetupError, match=r"one Celery app, SagaManager\(app\), found none"):
                call()
        with pytest.raises(SetupError, match="found 'one' and 'two'"):
            SagaManager(one, broker_pool=two)
        with pytest.raises(SetupError, match="found 'one' and 'two'"):
            SagaManager(one, storage=SagaExecutionRepository(two))

    @pytest.mark.parametrize("pool", [Connection("memory://"), "redis://", object()], ids=type)
    def test_a_broker_that_is_not_an_app(self, pool: Any) -> None:
        with pytest.raises(SetupError, match=r"broker_pool: expected a Celery app, .*\(app\)"):
            SagaManager(broker_pool=pool)
        with pytest.raises(SetupError, match="broker_pool: expected a Celery app"):
            SagaManager(new_app(), broker_pool=pool)

    def test_arguments_that_mean_nothing_here(self) -> None:
        with pytest.raises(SetupError, match=r"pool_factory= is not supported: .*\(app\)"):
            SagaManager(new_app(), pool_factory=object())


class TestImport:
    def finished(self) -> SagaExecution:
        app = new_app()
        SagaManager(app, storage=MemoryStore())
        found = run_one(app, number=3).execution
        assert found.status is SagaStatus.COMPLETED
        return SagaExecution.from_raw(found.raw)

    def test_an_ended_saga_in_another_store(self) -> None:
        execution, app = self.finished(), new_app("other")
        manager = SagaManager(app, storage=MemoryStore())
        asyncio.run(manager.repository.store(execution))
        assert manager.get(execution.saga_id).get(timeout=1) == {"number": 6}
        back = asyncio.run(manager.repository.load(execution.uuid))
        assert {**back.raw, "revision": 0} == {**execution.raw, "revision": 0}

    def test_a_taken_id_is_refused_and_nothing_changes(self) -> None:
        execution, app = self.finished(), new_app("other")
        manager = SagaManager(app, storage=MemoryStore())
        asyncio.run(manager.repository.store(execution))
        before = asyncio.run(manager.repository.load(execution.saga_id))
        with pytest.raises(SagaAlreadyExists, match="taken by a run of saga 'double'"):
            asyncio.run(manager.repository.store(execution))
        assert asyncio.run(manager.repository.load(execution.saga_id)) == before


def test_a_saga_of_another_app_is_refused_before_anything_happens() -> None:
    mine, other = new_app("mine"), new_app("other")
    manager = SagaManager(mine, storage=MemoryStore())

    @other.task(shared=False)
    def theirs() -> None:
        raise AssertionError("it ran")

    saga = Saga("theirs", steps=[theirs]).commit()
    with pytest.raises(DefinitionError, match=r"runs on the app 'other', .* manager of 'mine'"):
        asyncio.run(manager.run(saga))
