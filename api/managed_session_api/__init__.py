"""The ManagedSession resource: names, typed spec and status, conditions. No I/O."""
