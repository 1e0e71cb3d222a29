"""Processes beside the server: the zygote, and a small init per sandbox. Uses only the standard library."""
