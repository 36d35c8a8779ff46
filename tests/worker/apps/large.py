"""Steps with much data."""

from celery import Celery

from celery_saga import Saga, SagaContext, SagaManager
from tests.worker.apps.journal import note

#: Small enough for a test.
LIMIT, INLINE = 50_000, 2_000

app = Celery("large", set_as_current=False)  # tests import it too
SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
app.conf.update(saga_context_limit=LIMIT, saga_context_inline_limit=INLINE)


@app.task
def fill(fill_with):
    """Returns a text of so many characters."""
    note("began")
    return {"filled": "x" * fill_with}


@app.task
def empty(filled=None):
    note("began")


@app.task
def fill_again(fill_again_with=0):
    """Replaces what fill returned; its message does not carry it."""
    note("began")
    return {"filled": "y" * fill_again_with}


def look(context: SagaContext) -> SagaContext:
    """Takes the whole context, however large."""
    note("began")
    context.seen = len(context.get("filled", ""))
    return context


filling = Saga("filling", app=app)
filling.local_step(fill).on_failure(empty)
filling.local_step(fill_again).on_failure(empty)
filling.local_step(look)
filling.commit()

looking = Saga("looking", app=app, steps=[look]).commit()
