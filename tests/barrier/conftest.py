"""Databases of all kinds; what many tests share is started once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.barrier import places
from tests.barrier.places import Alchemy, AlchemyConnection, Django, Place, Psycopg, Sqlite
from tests.databases import MariaDb, Postgres


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("barrier")


@pytest.fixture(scope="session")
def maybe_postgres() -> Iterator[Postgres | None]:
    if Postgres.program is None:
        yield None
        return
    server = Postgres(fsync="off", max_connections="200")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres(maybe_postgres: Postgres | None) -> Postgres:
    if maybe_postgres is None:
        pytest.skip("PostgreSQL is not installed here")
    return maybe_postgres


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    if MariaDb.program is None:
        pytest.skip("MariaDB is not installed here")
    server = MariaDb()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def configured(folder: Path, maybe_postgres: Postgres | None) -> None:
    places.set_up_django(folder, maybe_postgres)


@pytest.fixture(scope="session")
def sqlite(folder: Path) -> Sqlite:
    return Sqlite(folder)


@pytest.fixture(scope="session")
def psycopg(postgres: Postgres) -> Psycopg:
    return Psycopg(postgres)


@pytest.fixture(scope="session")
def alchemy_sqlite(folder: Path) -> Alchemy:
    return Alchemy("sqlalchemy-sqlite", f"sqlite:///{folder}/alchemy.sqlite?timeout=30")


@pytest.fixture(scope="session")
def alchemy_postgres(postgres: Postgres) -> Alchemy:
    with closing(postgres.connect(autocommit=True)) as db:
        db.execute("CREATE DATABASE alchemy")
    url = postgres.url.replace("/postgres?", "/alchemy?")
    return AlchemyConnection("sqlalchemy-postgres", url)


@pytest.fixture(scope="session")
def alchemy_mariadb(mariadb: MariaDb) -> Alchemy:
    return Alchemy("sqlalchemy-mariadb", mariadb.url)


@pytest.fixture(scope="session")
def django_sqlite(configured: None) -> Django:
    return Django("default")


@pytest.fixture(scope="session")
def django_postgres(postgres: Postgres, configured: None) -> Django:
    return Django("postgres")


@pytest.fixture(
    params=[
        "sqlite",
        "psycopg",
        "alchemy_sqlite",
        "alchemy_postgres",
        "alchemy_mariadb",
        "django_sqlite",
        "django_postgres",
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each of them in turn."""
    found: Place = request.getfixturevalue(request.param)
    return found
