"""What is known of the Celery tasks that steps call."""
