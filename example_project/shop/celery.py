"""The Celery application, as the shop had it before, and the one line that sagas need."""

from celery import Celery

from celery_saga import SagaManager

# Celery itself reads CELERY_BROKER_URL and CELERY_RESULT_BACKEND from the environment.
app = Celery("shop", include=["example_project.shop.tasks", "example_project.shop.checkout"])
sagas = SagaManager(app)
