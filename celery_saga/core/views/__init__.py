"""A saga as operators see it: values, a line of time, text; for the CLI, Flower and Django."""
