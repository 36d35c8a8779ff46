"""What runs inside a Celery worker: hook, step runner, heartbeat, recovery."""
