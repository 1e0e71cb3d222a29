"""Contains what webhook and operator share: credentials, logs, settings, probes, the Kubernetes client."""
