"""Records Anthropic's signed session events in ManagedSession resources."""
