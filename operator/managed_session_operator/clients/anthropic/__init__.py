"""Clients of Anthropic: the environment's work queue, its sessions, and their agents' skills."""
