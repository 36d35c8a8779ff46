"""Where executions are kept: in memory, in Redis or Valkey."""
