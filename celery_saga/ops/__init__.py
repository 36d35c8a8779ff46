"""The tools of operators: the command line and the doctor."""
