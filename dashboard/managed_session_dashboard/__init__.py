"""Serves a read-only web page about environments, classes and sessions."""
