"""The webhook: turns Anthropic's signed session events into ManagedSession resources."""
