"""Contains the leader's loops: they turn offers and events into reconciliations, and these into steps."""
