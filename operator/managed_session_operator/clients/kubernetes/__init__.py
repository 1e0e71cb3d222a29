"""Clients of the API server: resources, their Secrets, Events, the watch and the Lease."""
