"""Atomic writes in one script, where the store shares a Redis server with broker or backend."""
