"""Code that both simulators share: faults, settings, call log, server process and control client."""
