"""Prepares a sandbox for its session: the sections of a plan, one after the other.

The operator sends this package into the sandbox and runs it there as root (`run`). It needs only the
standard library and `paths`, `privileges` and `processes`, which are sent with it. It is not part of the
template, so a sandbox of any age is prepared by the operator's own version.
"""
