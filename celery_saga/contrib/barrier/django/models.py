"""The barrier's table, for Django's migrations and its admin; the barrier itself writes SQL."""

from django.db import models

from celery_saga.contrib.barrier.statements import KEY_LENGTH, TABLE


class BarrierResult(models.Model):
    """A row: a step or its compensation had its effect, or can have none any more."""

    step_key = models.CharField(primary_key=True, max_length=KEY_LENGTH)
    result = models.TextField(null=True)
    created_at = models.BigIntegerField()

    class Meta:
        db_table = TABLE

    def __str__(self) -> str:
        return str(self.step_key)
