"""Simulators of the two clouds, which speak their wire protocols to the unmodified SDKs."""
