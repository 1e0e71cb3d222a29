"""Errors of preparing and running a local control plane."""


class BinariesUnavailableError(Exception):
    """The control plane's binaries are not available. The text says why and what to do."""


class SourceUnavailableError(Exception):
    """One source of binaries is not available; another one may be. The text is one line."""


class ProcessFailedError(Exception):
    """A process failed to start, or stopped by itself. The text names it and shows its last lines."""
