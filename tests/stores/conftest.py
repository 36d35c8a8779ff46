"""A real server for the contracts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_saga.testing.embedded import EmbeddedValkey


@pytest.fixture(scope="package")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server
