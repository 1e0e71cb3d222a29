"""The steps that the reconciler takes, by concern.

A step is `async (context, resource) -> float | None`: it takes one effect further and writes it down. None
means "decide again at once", a number "look again after so many seconds".
"""
