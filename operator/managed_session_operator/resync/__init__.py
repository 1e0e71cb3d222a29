"""Periodically compares the resources with E2B's and Anthropic's lists, to make up for missed events."""
