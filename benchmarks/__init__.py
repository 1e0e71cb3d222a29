"""Measurements: each module is a program of its own, and says what it measures."""
