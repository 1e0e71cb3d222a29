"""Keeps archives of skills on disk, so that a version is downloaded once for all sandboxes."""
