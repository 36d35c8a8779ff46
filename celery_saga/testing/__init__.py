"""Tools for tests of sagas, and of stores for them."""
