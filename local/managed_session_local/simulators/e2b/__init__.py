"""A wire-level simulator of E2B: control plane, envd data plane and sandboxes that are real processes."""
