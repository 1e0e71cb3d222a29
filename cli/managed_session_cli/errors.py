"""What the commands on a cluster say instead of a traceback."""


class CommandError(Exception):
    """A command cannot go on; the text is for people and says what to do. Never holds a secret."""


class ClusterError(CommandError):
    """The API server refused or did not answer.

    Attributes:
        status: of its answer; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
