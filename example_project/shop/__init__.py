"""The shop: an ordinary Celery project, and ``checkout.py``, which makes a saga of its tasks."""
