"""The context of the golden files of values: one of each kind."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

VALUES: dict[str, Any] = {
    "none": None, "yes": True, "no": False, "int": -12345678901234567890, "float": 49.99,
    "whole": 25.0, "tiny": 1e-300, "text": "ä \u2028 \"q\" \\ \U0001f600", "empty": "",
    "price": Decimal("10.50"), "huge": Decimal("1E+30"), "day": date(2026, 11, 30),
    "clock": time(23, 59, 58, 7, tzinfo=timezone.utc), "bare": time(1, 2),
    "when": datetime(2026, 11, 30, 8, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
    "naive": datetime(2026, 1, 2, 3, 4, 5), "key": UUID(int=7), "blob": b"\x00\xffraw",
    "nested": {"": [], "a": [{"d": Decimal(0), "n": [[None]]}], "items": {"keys": 1}},
    "list": [date(2000, 2, 29), b"", [1.0, 1]], "items": [1], "self": "me", "with space": 1,
    "Ключ": 1, "_private": 1, "password": "golden", "note": "x" * 100,
}  # fmt: skip
