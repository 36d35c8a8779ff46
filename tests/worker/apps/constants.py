"""Constants that tests and apps share."""

#: Options of a compensation: the engine tries it again almost at once.
QUICK_COMPENSATION = {"retry_backoff": 0.05}
