"""What a saga run is and what happens next; it knows no Celery and no server."""
