"""Contains the command line `managed-sessions`, for installations on clusters."""
