"""Defines the errors that a command reports in one line instead of a traceback."""


class CommandError(Exception):
    """A command cannot continue. The text says what to do, and never holds a secret."""


class ClusterError(CommandError):
    """The API server rejected a call or did not answer.

    Attributes:
        status: the HTTP status of its answer; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ClusterError):
    """The object does not exist, or the cluster does not have its kind."""


class TemplateError(CommandError):
    """The worker template could not be found or built; the text says why and what to do."""
