"""The operator: claims queued work and keeps one E2B sandbox per Claude Managed Agents session."""
