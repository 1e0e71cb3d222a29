"""What can go wrong while a local control plane is prepared or run."""


class BinariesUnavailableError(Exception):
    """The control plane's binaries could not be had; the text says why and what to do about it."""


class SourceUnavailableError(Exception):
    """One source of binaries cannot serve here; the next one may. The text is one line."""


class ProcessFailedError(Exception):
    """A process failed to start, or stopped by itself; the text names it and shows its last lines."""
