"""Contains what the operator knows and decides. Pure: no I/O and no SDK."""
