"""A wire-level simulator of E2B: the control plane, envd, and sandboxes made of real processes."""
