"""Reading the new part of a file that grows, is replaced, or is gone for a while."""

from __future__ import annotations

import pytest
from managed_session_cli.growing_file import GrowingFile


class File:
    """A file, with the number of bytes read from it."""

    def __init__(self) -> None:
        self.content = b""
        self.brought = 0

    async def read(self, start: int) -> bytes | None:
        if start and start >= len(self.content):
            return None
        self.brought += len(self.content[start:])
        return self.content[start:]


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def growing(file: File) -> GrowingFile:
    return GrowingFile(file.read)


async def test_each_piece_comes_once_and_little_is_read_again(file: File, growing: GrowingFile) -> None:
    file.content = b"x" * 1_000_000
    assert len(await growing.new_text()) == 1_000_000
    for number in range(10):
        file.content += b"line %d\n" % number
        assert await growing.new_text() == f"line {number}\n"
        assert await growing.new_text() == ""
    assert file.brought < 1_020_000


async def test_missing_file_is_waited_for(file: File, growing: GrowingFile) -> None:
    assert await growing.new_text() == ""
    file.content = b"begun"
    assert await growing.new_text() == "begun"


@pytest.mark.parametrize("anew", [b"", b"short", b"another that is longer than the one before"])
async def test_replaced_file_is_read_from_its_beginning(
    file: File, growing: GrowingFile, anew: bytes
) -> None:
    file.content = b"the one before"
    await growing.new_text()
    file.content = anew
    assert await growing.new_text() == anew.decode()
    file.content += b" and more"
    assert await growing.new_text() == " and more"


async def test_character_written_in_two_pieces_is_read_as_one(file: File, growing: GrowingFile) -> None:
    whole = "ü".encode()
    file.content = whole[:1]
    assert await growing.new_text() == ""
    file.content = whole
    assert await growing.new_text() == "ü"
