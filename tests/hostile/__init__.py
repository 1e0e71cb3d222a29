"""What a hostile agent tries: attempts as data, played by a cluster test, and listed in docs/security.md."""
