"""The barrier: a step has its effect once in the user's own database, whatever is delivered.

The engine lets no two bodies of a step run at a time if it can help it, but a process can die
between its commit and its report, and a body of a worker that was disconnected may run on after its
step was compensated. Only the database that holds the effect knows. So the step writes a row there,
in the transaction of its effect::

    with Session.begin() as session, barrier(session) as first:
        if first:
            first.result = reserve(session, order_id)
    return first.result

- A step that comes again finds the row and is skipped; it gets the result that the first kept.
- A compensation writes the row of its step as well. If it is the first to do so, the step has not
  happened: there is nothing to compensate, and the step cannot happen any more
  (:class:`BlockedByCompensation`).
- A compensation that comes again is skipped, and so is a second compensation of the same step under
  a new round, which the engine asks for when the step reports late.

A delivery that comes while the transaction of another one is open waits for its end, at the unique
key of the row.

``barrier`` and the decorator ``once`` come in three forms with the same meaning:

- :mod:`celery_saga.contrib.barrier.dbapi`: connections of ``sqlite3`` and ``psycopg``;
- :mod:`celery_saga.contrib.barrier.sqlalchemy`: a ``Session`` or ``Connection``;
- :mod:`celery_saga.contrib.barrier.django`: ``transaction.atomic`` and an app with its migration.

Outside of a saga the work is done as without a barrier, and no row is written: the task is still an
ordinary one, and its caller has given no key by which it could be known again.

Source of the idea: the *sub-transaction barrier* of dtm (https://en.dtm.pub/practice/barrier.html),
where a compensation likewise inserts the key of what it compensates. Kept results, and one row for
all compensations of a step, are not part of it.
"""

from celery_saga.contrib.barrier.entry import BarrierResult
from celery_saga.contrib.barrier.statements import TABLE, create_table
from celery_saga.errors import BarrierPassedTwice, BlockedByCompensation

__all__ = ["TABLE", "BarrierPassedTwice", "BarrierResult", "BlockedByCompensation", "create_table"]
