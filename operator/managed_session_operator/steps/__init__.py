"""Contains the steps that the reconciler takes, by concern.

A step is `async (context, resource) -> float | None`. It has one effect and records it in the status. If it
returns None, the reconciler decides again at once. If it returns a number, the reconciler waits that many
seconds.
"""
