"""The command line `managed-sessions`: the system on this machine, and installations on clusters."""
