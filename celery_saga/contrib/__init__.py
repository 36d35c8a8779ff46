"""Helpers beside the engine: each is imported by its own path and may need an extra of its own."""
