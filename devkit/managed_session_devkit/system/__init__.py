"""The whole system on one machine: webhook and operator processes, a control plane and two clouds."""
