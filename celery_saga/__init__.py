"""Durable sagas on the Celery you already run.

What the package offers stands in :mod:`celery_saga.face`, and is imported when a name of it is
first asked for: Celery's command line imports the package at each start, for its verbs.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# Celery makes errors out of stored results only of modules that are imported.
from celery_saga import errors as errors
from celery_saga._version import __version__ as __version__

if TYPE_CHECKING:
    from celery_saga.face import *  # noqa: F403
    from celery_saga.face import __all__ as __all__


def __getattr__(name: str) -> Any:
    # Modules first: while the face is being imported, they ask for each other.
    if find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    face = import_module(f"{__name__}.face")
    if name != "__all__" and name not in face.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(face, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
