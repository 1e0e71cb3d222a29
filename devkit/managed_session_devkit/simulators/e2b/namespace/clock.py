"""Makes the wall clock wrong for this process and those forked from it.

Linux has no namespace for the wall clock. So this module overwrites the C library's `clock_gettime` in the
memory of this process. Python and its C extensions see the shifted time, in `datetime` too. Programs that
this process executes see the host's time.
"""

import ctypes
import mmap
import platform
import struct
from typing import Final

_PROTECTION: Final = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def _code(seconds: int) -> bytes:
    """Return x86-64 code: make the system call, and for CLOCK_REALTIME add `seconds` to the answer."""
    return (
        b"\xb8\xe4\x00\x00\x00"  # mov eax, 228 (clock_gettime)
        b"\x0f\x05"  # syscall; edi and rsi stay
        b"\x85\xff"  # test edi, edi (CLOCK_REALTIME is 0)
        b"\x75\x0d"  # jnz to ret
        b"\x48\xb9" + struct.pack("<q", seconds) + b"\x48\x01\x0e"  # mov rcx, seconds; add [rsi], rcx
        b"\xc3"  # ret
    )


def shift(seconds: int) -> None:
    """Set the wall clock `seconds` ahead, or behind if negative. Raises OSError if that is impossible."""
    if not seconds:
        return
    if platform.machine() != "x86_64":
        raise OSError(f"the sandbox clock cannot be shifted on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    target = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value
    code = _code(seconds)
    if target is None:
        raise OSError("the C library has no clock_gettime")
    first = target // mmap.PAGESIZE * mmap.PAGESIZE
    length = target + len(code) - first
    if libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(length), _PROTECTION):
        raise OSError(ctypes.get_errno(), "the C library's code cannot be made writable")
    ctypes.memmove(target, code, len(code))
