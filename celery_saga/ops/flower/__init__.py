"""A tab for sagas in Flower: ``celery -A proj flower`` has it where ``proj`` has a ``SagaManager``.

:func:`install` puts it there. Celery's command line calls it when Flower is started; a
``flowerconfig.py`` may call it too.
"""

from __future__ import annotations

import logging
from importlib import import_module

log = logging.getLogger("celery_saga")


def install() -> bool:
    """Add the tab to the Flower that is built in this process; it may be called again.

    It must be called before Flower's application is made. Where Flower is not installed, or is not
    built as it is expected, nothing is changed; the reason is in the log.

    Returns:
        Whether the tab is there.
    """
    try:
        urls = import_module(f"{__name__}.urls")  # it needs Flower, which may not be installed
    except ImportError as error:
        log.warning("Flower has no tab for sagas: %s", error)
        return False
    try:
        urls.extend()
    except Exception:
        log.warning("Flower has no tab for sagas: it is not built as expected", exc_info=True)
        return False
    return True
