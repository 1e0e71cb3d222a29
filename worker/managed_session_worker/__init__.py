"""Contains what runs inside a session's sandbox: a supervisor, one worker per claim, their template."""
