"""Recovery: what a worker does for sagas that would not continue otherwise."""
