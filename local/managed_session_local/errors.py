"""What can go wrong while the local system is used, and is said in one line without a traceback."""

from managed_session_local.clouds import CloudsError
from managed_session_local.control_plane import BinariesUnavailableError, KubectlError, ProcessFailedError
from managed_session_local.foreground import StoppedBySignal


class TemplateError(Exception):
    """The worker template could not be looked up or built; the text says why and what to do."""


EXPECTED = (
    BinariesUnavailableError,
    CloudsError,
    KubectlError,
    ProcessFailedError,
    StoppedBySignal,
    TemplateError,
    OSError,
)
"""Their texts are for people."""
