"""Decides which sandboxes may run: slots, the wait queue, and the creation rate."""
