"""Constants that tests and apps share."""

#: Options of an undo: the engine tries it again almost at once.
QUICK_UNDO = {"retry_backoff": 0.05}
