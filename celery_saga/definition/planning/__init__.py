"""How a plan is made from a definition: calls of tasks, and the nodes that they are in."""
