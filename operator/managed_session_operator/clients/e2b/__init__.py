"""Clients of E2B: sandboxes, and the workers and skills in them."""
