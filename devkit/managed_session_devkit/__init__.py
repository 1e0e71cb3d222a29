"""Development tools of managed-sessions: control plane, cloud simulators, local system, demo."""
