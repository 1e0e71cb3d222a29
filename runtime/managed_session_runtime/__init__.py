"""What the processes in the pods share: credentials, logs, settings, probes, the Kubernetes connection."""
