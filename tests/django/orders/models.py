"""What the shop keeps of an order."""

from django.db import models


class Order(models.Model):
    """An order and how far it is."""

    amount = models.IntegerField()
    state = models.CharField(max_length=100, default="new")
