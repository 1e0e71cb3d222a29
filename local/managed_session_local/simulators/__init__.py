"""Wire-level simulators of the two clouds, driven by the unmodified SDKs over HTTP."""
