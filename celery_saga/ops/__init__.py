"""What people on call use: the command line and the doctor."""
