"""Clients of the three outside systems, one package each. They raise `errors.OperationError` only."""
