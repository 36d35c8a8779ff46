"""Sagas in a world where everything goes wrong, from a seed.

The orchestrator, the state machine, the sweeper and the memory store are the real ones. Broker,
workers, tasks and clock are simulated, and a schedule of events and faults is drawn from the seed.
A ledger that only the simulated tasks write knows what has taken effect; after each event, and at
the end, it is held against what the sagas say of themselves.

``python -m tests.simulator --seeds 1000 --start 0`` runs seeds; a seed that fails is shortened to
the events and faults that matter, and its history is printed.
"""
