"""The ManagedSession resource: names, typed spec and status, conditions. Does no I/O."""
