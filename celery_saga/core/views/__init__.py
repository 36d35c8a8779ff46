"""A saga as people see it: as values, on a line of time, as text. For command line, Flower, Django."""
