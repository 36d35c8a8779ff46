"""What tests of sagas, and of stores for them, can use."""
