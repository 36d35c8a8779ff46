"""Runs sagas in process for tests: no broker, no worker, no server, and a clock of its own."""
