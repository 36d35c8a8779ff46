"""Two services: ``orders`` runs sagas, and ``stock`` is a plain Celery app that serves requests."""
