"""The SQL of the barrier, by database and by the style in which its driver takes parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from celery_saga.errors import SetupError

#: The table, found where the connection looks for tables that are named without a schema.
TABLE = "celery_saga_barrier"
#: Characters of a row's key: saga id, step name, direction and round.
KEY_LENGTH = 512
#: How MySQL is to compare keys; left alone it takes ``order-A`` and ``order-a`` for one.
MYSQL_COLLATION = "utf8mb4_bin"

#: The placeholder of a parameter, with room for its number, by PEP 249's name of the style.
_MARKS = {
    "qmark": "?",
    "format": "%s",
    "pyformat": "%s",
    "numeric": ":{}",
    "numeric_dollar": "${}",
}

#: An INSERT that does nothing if the key is there already, and then counts no row. It must not
#: fail: PostgreSQL would accept nothing more in the transaction.
_INSERT = {
    "sqlite": "INSERT INTO {} VALUES {} ON CONFLICT DO NOTHING",
    "postgresql": "INSERT INTO {} VALUES {} ON CONFLICT DO NOTHING",
    "mysql": "INSERT IGNORE INTO {} VALUES {}",
}
_INSERT["mariadb"] = _INSERT["mysql"]

_FIND = f"SELECT step_key, result FROM {TABLE} WHERE step_key = {{}}"
#: MySQL's own way to read what is committed now, and not when the transaction began.
_FIND_NOW = f"({_FIND} LOCK IN SHARE MODE)"
_MYSQL = ("mysql", "mariadb")


@dataclass(frozen=True)
class Statements:
    """The texts for one database and style; parameters in the order of the comments."""

    insert: str  #: key, created_at
    keep: str  #: result, key
    find: str  #: key, other key; gives keys and results
    purge: str  #: created_at


@cache
def statements(dialect: str, paramstyle: str) -> Statements:
    """The statements for a database.

    Args:
        dialect: ``sqlite``, ``postgresql``, ``mysql`` or ``mariadb``.
        paramstyle: the driver's, by PEP 249.

    Raises:
        SetupError: there are none for it.
    """
    if dialect not in _INSERT or paramstyle not in _MARKS:
        raise SetupError(
            f"no barrier for the database {dialect!r} with parameters in style {paramstyle!r}: "
            f"expected one of {', '.join(sorted(_INSERT))}, and of {', '.join(sorted(_MARKS))}"
        )
    one, two = (_MARKS[paramstyle].format(number) for number in (1, 2))
    find = _FIND_NOW if dialect in _MYSQL else _FIND
    return Statements(
        insert=_INSERT[dialect].format(f"{TABLE} (step_key, created_at)", f"({one}, {two})"),
        keep=f"UPDATE {TABLE} SET result = {one} WHERE step_key = {two}",
        # Not IN (..., ...): of a new table PostgreSQL plans that as a scan of all rows, and a
        # connection's prepared statement keeps the plan while the table grows.
        find=f"{find} UNION ALL {find}".format(one, two),
        purge=f"DELETE FROM {TABLE} WHERE created_at < {one}",
    )


def create_table(dialect: str) -> str:
    """The statement that makes the table, if it is not there, for migrations written in SQL.

    Args:
        dialect: ``sqlite``, ``postgresql``, ``mysql`` or ``mariadb``.

    Raises:
        SetupError: there is none for it.
    """
    statements(dialect, "qmark")
    mysql = dialect in _MYSQL
    text, collation = (
        ("LONGTEXT", f" CHARACTER SET utf8mb4 COLLATE {MYSQL_COLLATION}") if mysql else ("TEXT", "")
    )
    return (
        f"CREATE TABLE IF NOT EXISTS {TABLE} ("
        f"step_key VARCHAR({KEY_LENGTH}){collation} NOT NULL PRIMARY KEY, "
        f"result {text}, "
        f"created_at BIGINT NOT NULL)" + (" WITHOUT ROWID" if dialect == "sqlite" else "")
    )
