"""What runs inside a session's sandbox: a supervisor, one worker per claim, and the template that holds them."""
