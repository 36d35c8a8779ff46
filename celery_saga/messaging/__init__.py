"""How steps and results travel over Celery, and what the broker knows."""
