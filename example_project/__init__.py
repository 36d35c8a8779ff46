"""A small web shop on Celery whose checkout is a saga. Run it: ``python -m example_project``."""
