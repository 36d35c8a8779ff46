"""Another app, with a queue and a task of its own, whose author has not thought of a prefix."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps.journal import note, wait_at

app = Celery("neighbour", set_as_current=False)
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
app.conf.task_default_queue = "mail"


@app.task(name="neighbour.mail", shared=False, acks_late=True)
def mail(hold=False):
    note("began")
    if hold:
        wait_at("mail")
