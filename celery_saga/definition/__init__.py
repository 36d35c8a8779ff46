"""How a saga is written, and how that becomes a plan."""
