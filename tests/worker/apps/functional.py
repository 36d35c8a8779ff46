"""The app of the one worker that most tests share."""

from celery import Celery

from celery_saga import SagaManager

app = Celery(
    "functional",
    include=[
        "tests.worker.apps.kinds",
        "tests.worker.apps.elsewhere",
        "tests.worker.apps.bodies",
        "tests.worker.apps.results",
        "tests.worker.apps.steps",
        "tests.worker.apps.canvas",
        "tests.worker.apps.original",
        "tests.worker.apps.trees",
        "tests.worker.apps.typed",
    ],
)
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
