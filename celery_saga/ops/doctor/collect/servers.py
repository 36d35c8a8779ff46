"""Gathers what Redis and Valkey servers report about themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import redis
from kombu.utils.url import maybe_sanitize_url

from celery_saga.ops.doctor.facts import Server

#: The settings that the checks examine.
SETTINGS = (
    "appendonly",
    "appendfsync",
    "save",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
)


def gather_server(client: redis.Redis, url: str, role: str) -> Server:
    """Gather the facts about the server of ``client``; a refusal is a fact too.

    Raises:
        redis.exceptions.RedisError: it does not answer.
    """
    refused: list[str] = []
    info = _unless_refused(client.info, refused)
    settings: dict[str, str] = {}
    for name in SETTINGS:  # one by one: servers before Redis 7 take one name
        settings |= _texts(_unless_refused(partial(client.config_get, name), refused))
        if refused:
            break
    return Server(
        url,
        (role,),
        run_id=str(info.get("run_id", "")),
        settings=settings,
        info=_texts(info),
        refused=refused[0] if refused else "",
    )


def _unless_refused(ask: Callable[[], Any], refused: list[str]) -> dict[str, Any]:
    try:
        return dict(ask())
    except redis.exceptions.AuthenticationError:
        raise
    except redis.exceptions.ResponseError as error:
        refused.append(str(error))
        return {}


def _texts(answer: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in answer.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def once(servers: Iterable[Server]) -> tuple[Server, ...]:
    """Each server once, with all its roles: two addresses may lead to one."""
    found: dict[str, Server] = {}
    for server in servers:
        key = server.run_id or server.url
        known = found.get(key)
        if known is None:
            found[key] = server
            continue
        # Two users of one server may not be allowed the same.
        more = server if known.refused and not server.refused else known
        found[key] = replace(more, url=known.url, roles=known.roles + server.roles)
    return tuple(found.values())


def shown(url: Any) -> str:
    """A URL without its password; of several alternatives, all."""
    urls = url if isinstance(url, (list, tuple)) else str(url or "").split(";")
    return ";".join(str(maybe_sanitize_url(one)) for one in urls)
