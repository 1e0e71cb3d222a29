"""Archives of skills for tests, good ones and bad ones."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def bomb(gigabytes: int, *, announced: int | None = None) -> bytes:
    """A zip whose one file unpacks to so many GB of zeros, put together from one deflated MiB."""
    mebibyte, count = bytes(1 << 20), gigabytes * 954
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(mebibyte) + deflate.flush(zlib.Z_FULL_FLUSH)
    data = block * count + b"\x03\x00"
    size = announced if announced is not None else count << 20
    wide = struct.pack("<HHQQ", 1, 16, size, len(data))
    shared = struct.pack("<HHHHHLLL", 45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF)
    local = b"PK\x03\x04" + shared + struct.pack("<HH", 6, len(wide)) + b"x/zero" + wide + data
    entry = (
        b"PK\x01\x02" + struct.pack("<H", 45) + shared + struct.pack("<HHHHHLL", 6, len(wide), 0, 0, 0, 0, 0)
    )
    entry += b"x/zero" + wide
    return local + entry + b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(entry), len(local), 0)
