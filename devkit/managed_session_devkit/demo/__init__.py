"""The command `managed-sessions demo`: plays the smoke test on a local system and reports it live."""
