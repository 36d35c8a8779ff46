"""Measures sagas against plain Celery chains of the same tasks: ``python -m benchmarks chain``."""
