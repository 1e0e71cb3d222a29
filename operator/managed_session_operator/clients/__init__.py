"""The operator's edge: one small class per outside system, each raising `failures.Failure` only."""
