"""What ``AppConfig.ready`` would do."""

from celery_saga import SagaManager
from tests.worker.apps.ready import app

sagas = SagaManager(app)
