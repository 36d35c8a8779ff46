"""What is refused before anything is written, and the tables that the three ways make."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import uuid
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from django.apps import apps
from django.core.management import call_command
from django.db import connections
from psycopg.rows import dict_row
from sqlalchemy import MetaData, create_engine, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session

from celery_saga import SetupError
from celery_saga.contrib.barrier import TABLE, BarrierResult, create_table, dbapi
from celery_saga.contrib.barrier import django as django_barrier
from celery_saga.contrib.barrier import sqlalchemy as sqlalchemy_barrier
from celery_saga.contrib.barrier.statements import statements
from tests.barrier.model import Delivery, Model, run
from tests.barrier.places import Alchemy
from tests.databases import Postgres
from tests.helpers import delivery, has_exited, wait_for

ROOT = Path(__file__).resolve().parents[2]
MISSING = "the barrier needs a transaction"


def passes(barrier: AbstractContextManager[BarrierResult]) -> None:
    with barrier as first:
        assert first


class TestAutocommit:
    """The row would be committed before the work is done."""

    def test_sqlite(self, sqlite):
        with closing(sqlite.connect(isolation_level=None)) as db, delivery(sqlite.saga()):
            with pytest.raises(SetupError, match=MISSING):
                dbapi.barrier(db)
            db.execute("BEGIN")
            passes(dbapi.barrier(db))
            db.execute("ROLLBACK")

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="of Python 3.12")
    def test_sqlites_newer_setting(self, sqlite):
        with closing(sqlite.connect(autocommit=True)) as db, pytest.raises(SetupError):
            dbapi.barrier(db)
        with closing(sqlite.connect(autocommit=False)) as db, delivery(sqlite.saga()):
            passes(dbapi.barrier(db))

    def test_psycopg(self, psycopg):
        with psycopg.transaction() as db, delivery(psycopg.saga()):
            db.autocommit = True
            with pytest.raises(SetupError, match=MISSING):
                dbapi.barrier(db)
            with db.transaction():
                passes(dbapi.barrier(db))

    @pytest.mark.parametrize("name", ["alchemy_sqlite", "alchemy_postgres"])
    def test_sqlalchemy(self, request, name):
        place = request.getfixturevalue(name)
        engine = place.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.begin() as db, delivery(place.saga()), pytest.raises(SetupError, match=MISSING):
            sqlalchemy_barrier.barrier(db)

    def test_outside_of_a_saga_too(self, sqlite):
        """So that it is found before a saga needs it."""
        with closing(sqlite.connect(isolation_level=None)) as db, pytest.raises(SetupError):
            dbapi.barrier(db)


class TestUnknownDatabases:
    def test_a_connection_of_another_driver(self):
        with pytest.raises(SetupError, match=r"no barrier for a builtins.dict: expected a connec"):
            dbapi.barrier({})

    def test_another_database(self):
        with pytest.raises(SetupError, match="no barrier for the database 'oracle'"):
            create_table("oracle")
        with pytest.raises(SetupError, match="parameters in style 'named'"):
            statements("sqlite", "named")

    def test_djangos_mysql(self, configured, monkeypatch):
        monkeypatch.setattr(type(connections["default"]), "vendor", "mysql")
        with pytest.raises(SetupError, match="database 'default': expected one of postgresql, sql"):
            passes(django_barrier.barrier())

    def test_a_driver_that_does_not_count_rows(self, psycopg):
        with psycopg.transaction() as db, delivery(psycopg.saga()):
            barrier = dbapi.barrier(db)
            with db.pipeline(), pytest.raises(SetupError, match="does not say whether"):
                passes(barrier)

    def test_a_missing_table_says_so(self):
        with closing(sqlite3.connect(":memory:")) as db, delivery("s"):
            barrier = dbapi.barrier(db)
            with pytest.raises(sqlite3.OperationalError, match=f"no such table: {TABLE}"):
                passes(barrier)


class TestConnections:
    """Whatever they make of their rows, and classes derived from theirs."""

    @pytest.mark.parametrize("factory", [sqlite3.Row, lambda cursor, row: {"row": row}])
    def test_sqlite_row_factories(self, sqlite, factory):
        saga = sqlite.saga()
        for expected in (True, False):
            with closing(sqlite.connect()) as db, db, delivery(saga):
                db.row_factory = factory
                with dbapi.barrier(db) as first:
                    assert bool(first) is expected
                    first.result = "kept"
                assert first.result == "kept"

    def test_psycopg_row_factories(self, psycopg):
        saga = psycopg.saga()
        for _ in range(2):
            with psycopg.server.connect(dbname="dbapi", row_factory=dict_row) as db, delivery(saga):
                with dbapi.barrier(db) as first:
                    first.result = first.result or "kept"
                assert first.result == "kept"

    def test_derived_classes(self, sqlite):
        class Mine(sqlite3.Connection):
            pass

        with closing(sqlite.connect(factory=Mine)) as db, delivery(sqlite.saga()):
            passes(dbapi.barrier(db))

    def test_sqlalchemys_scoped_sessions(self, alchemy_sqlite):
        session = scoped_session(alchemy_sqlite.sessions)
        with session.begin(), delivery(alchemy_sqlite.saga()):
            passes(sqlalchemy_barrier.barrier(session))
        session.remove()

    def test_sqlalchemys_asynchronous_sessions(self, alchemy_postgres):
        saga = alchemy_postgres.saga()

        @sqlalchemy_barrier.once
        def work(session: Session, amount: int) -> int:
            alchemy_postgres.effect(session, saga, amount)
            return amount

        async def body(amount: int) -> int:
            engine = create_async_engine(alchemy_postgres.engine.url)
            async with AsyncSession(engine) as session, session.begin():
                found = await session.run_sync(work, amount)
            await engine.dispose()
            return found

        for amount in (1, 2):
            with delivery(saga):
                assert asyncio.run(body(amount)) == 1
        assert alchemy_postgres.amounts(saga) == [1]

    def test_djangos_savepoints(self, django_sqlite):
        """Within another atomic block an error takes back what the barrier's block did."""
        saga = django_sqlite.saga()
        with delivery(saga), django_sqlite.transaction() as session:
            with suppress(LookupError), django_barrier.barrier("default"):
                django_sqlite.effect(session, saga, 1)
                raise LookupError
            django_sqlite.effect(session, saga, 2)
        assert django_sqlite.amounts(saga) == [2]
        assert django_sqlite.rows(saga) == []


def columns(url: str) -> tuple[Any, Any]:
    engine = create_engine(url)
    found = inspect(engine)
    names = [(each["name"], each["nullable"]) for each in found.get_columns(TABLE)]
    key = found.get_pk_constraint(TABLE)["constrained_columns"]
    engine.dispose()
    return names, key


COLUMNS = [("step_key", False), ("result", True), ("created_at", False)], ["step_key"]


class TestTables:
    def test_all_ways_make_the_same_one(self, request, place):
        urls = {
            "sqlite3": lambda: f"sqlite:///{place.path}",
            "psycopg": lambda: place.server.url.replace("/postgres?", "/dbapi?"),
            "django-sqlite": lambda: f"sqlite:///{connections['default'].settings_dict['NAME']}",
            "django-postgresql": lambda: request.getfixturevalue("postgres").url.replace(
                "/postgres?", "/django?"
            ),
        }
        url = urls.get(place.name, lambda: place.engine.url.render_as_string(False))()
        assert columns(url) == COLUMNS

    def test_one_database_with_two_ways_to_it(self, sqlite, tmp_path):
        """What SQLAlchemy did, sqlite3 knows."""

        class Both(Alchemy):
            def __init__(self) -> None:
                self.name, self.engine = "both", create_engine(f"sqlite:///{sqlite.path}")

            transaction = property(lambda self: self.engine.begin)  # type: ignore[assignment]

        saga, model = sqlite.saga(), Model()
        for place in (Both(), sqlite, Both()):
            for each in (Delivery("f"), Delivery("c")):
                assert run(place, saga, each, "x") == model.expect(each, "x")
        assert sqlite.amounts(saga) == [-1, 1]

    def test_the_statement_for_a_migration_can_run_twice(self, sqlite, psycopg, alchemy_mariadb):
        for place, dialect in ((sqlite, "sqlite"), (psycopg, "postgresql")):
            with place.transaction() as db:
                db.execute(create_table(dialect))
        with alchemy_mariadb.transaction() as session:
            session.execute(text(f"DROP TABLE {TABLE}"))
            for _ in range(2):
                session.execute(text(create_table("mariadb")))
        assert run(alchemy_mariadb, alchemy_mariadb.saga(), Delivery("f"), "x") == ("first", "x")

    def test_a_table_is_added_to_metadata_once(self):
        metadata = MetaData()
        table = sqlalchemy_barrier.barrier_table(metadata)
        assert table is sqlalchemy_barrier.barrier_table(metadata)

    def test_a_schema_of_the_metadata_does_not_hide_it(self):
        """The statements name it without one."""
        table = sqlalchemy_barrier.barrier_table(MetaData(schema="shop"))
        assert (table.schema, table.fullname) == (None, TABLE)


ENV = """
from alembic import context
from sqlalchemy import MetaData, create_engine
from celery_saga.contrib.barrier.sqlalchemy import barrier_table

metadata = MetaData()
barrier_table(metadata)
with create_engine(context.config.get_main_option("sqlalchemy.url")).connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
class TestAlembic:
    def config(self, request: Any, database: str, folder: Path) -> Config:
        url = f"sqlite:///{folder}/alembic.sqlite"
        if database == "postgres":
            server, name = request.getfixturevalue("postgres"), f"alembic_{uuid.uuid4().hex}"
            with closing(server.connect(autocommit=True)) as db:
                db.execute(f"CREATE DATABASE {name}")
            url = server.url.replace("/postgres?", f"/{name}?")
        config = Config()
        config.set_main_option("script_location", str(folder / "migrations"))
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        config.config_file_name = str(folder / "alembic.ini")
        command.init(config, str(folder / "migrations"))
        (folder / "migrations" / "env.py").write_text(ENV)
        return config

    def test_autogenerate_makes_the_table_and_then_finds_nothing_to_do(
        self, request, database, tmp_path, capsys
    ):
        config = self.config(request, database, tmp_path)
        command.revision(config, "barrier", autogenerate=True)
        command.upgrade(config, "head")
        command.check(config)  # raises if the database differs
        assert columns(config.get_main_option("sqlalchemy.url")) == COLUMNS
        command.downgrade(config, "base")
        assert "op.create_table('celery_saga_barrier'" in next(
            (tmp_path / "migrations" / "versions").glob("*.py")
        ).read_text().replace("\n    ", "")

    def test_a_revision_written_by_hand(self, request, database, tmp_path):
        """The snippet of docs/barrier.md."""
        snippet = (ROOT / "docs" / "barrier.md").read_text().split("```python\n# Alembic")[1]
        body = snippet.split("```")[0].split("\n", 1)[1]
        config = self.config(request, database, tmp_path)
        command.revision(config, "barrier", rev_id="one")
        (path,) = (tmp_path / "migrations" / "versions").glob("*.py")
        path.write_text(path.read_text().split("def upgrade")[0] + body)
        command.upgrade(config, "head")
        command.check(config)
        command.downgrade(config, "base")
        engine = create_engine(config.get_main_option("sqlalchemy.url"))
        assert not inspect(engine).has_table(TABLE)
        engine.dispose()


class TestDjangosMigration:
    def test_the_model_has_no_changes_that_no_migration_makes(self, configured, capsys):
        call_command("makemigrations", "celery_saga_barrier", check=True, dry_run=True)
        assert "No changes" in capsys.readouterr().out

    def test_it_can_be_taken_back(self, django_sqlite, tmp_path):
        saga = django_sqlite.saga()
        run(django_sqlite, saga, Delivery("f"), None)
        call_command("migrate", "celery_saga_barrier", "zero", verbosity=0)
        call_command("migrate", verbosity=0)
        assert run(django_sqlite, saga, Delivery("f"), "again") == ("first", "again")

    def test_the_model_shows_the_rows(self, django_sqlite):
        saga = django_sqlite.saga()
        run(django_sqlite, saga, Delivery("f"), "kept")
        found = apps.get_model("celery_saga_barrier", "BarrierResult").objects.get(
            step_key__startswith=f"{saga}/"
        )
        assert (str(found), found.result) == (f"{saga}/pay/f/0", '"kept"')


def test_postgres_plans_no_scan_of_a_new_table(postgres):
    """A statement that a driver has prepared keeps its plan while the table grows."""
    find = statements("postgresql", "numeric_dollar").find
    with closing(postgres.connect()) as db:
        db.execute(create_table("postgresql").replace("CREATE TABLE", "CREATE TEMPORARY TABLE"))
        rows = f"INSERT INTO {TABLE} SELECT g::text, NULL, 1 FROM generate_series(1, 45) g"
        db.execute(rows)
        db.execute("SET plan_cache_mode = force_generic_plan")
        db.execute(f"PREPARE find (text, text) AS {find}")
        plan = "\n".join(row[0] for row in db.execute("EXPLAIN EXECUTE find ('a', 'b')"))
    assert "Index" in plan
    assert "Seq Scan" not in plan, plan


def test_nothing_optional_is_imported_with_the_barrier():
    code = (
        "import sys\n"
        "import celery_saga.contrib.barrier, celery_saga.contrib.barrier.dbapi\n"
        "print([name for name in ('sqlalchemy', 'django.db', 'psycopg') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_the_tests_server_ends_with_its_starter():
    if Postgres.program is None:
        pytest.skip("PostgreSQL is not installed here")
    code = (
        "import sys\n"
        "from tests.databases import Postgres\n"
        "server = Postgres(fsync='off')\n"
        "print(server.process.pid, server.folder, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().decode().split()
        assert not has_exited(int(pid))
        starter.kill()
    wait_for(lambda: has_exited(int(pid)) and not Path(folder).exists(), 20)
