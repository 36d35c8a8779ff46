"""What a worker does for sagas that wait for something that will not come without it."""
