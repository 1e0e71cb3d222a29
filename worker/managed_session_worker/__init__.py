"""What runs inside a session's sandbox: a supervisor, one worker per claim, and their template."""
