"""JSON values of a file that need not fit into memory, one at a time."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from workloads.errors import DataError

_CHUNK_BYTES = 1 << 20
_LONGEST_VALUE = 1 << 28
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
# An error this close to the end of what was read may come of what was not read yet.
_NEAR_THE_END = 16


class JsonStream:
    """Reads values from wherever a binary file stands.

    Args:
        file: Holds UTF-8; read in chunks.
        source: Its name in errors.
    """

    def __init__(self, file: BinaryIO, source: str) -> None:
        self._file, self._source = file, source
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._is_complete = "", 0, False
        self._bytes_read = 0
        self._offset, self._line, self._column = 0, 1, 1

    def items(self) -> Iterator[tuple[int, object]]:
        """Items of a list, each with the byte that it starts at, counted from the first read.

        Raises:
            DataError: If the file does not hold one list, or breaks off; with line and column.
        """
        if self._peek() != "[":
            got = type(self._value()).__name__
            reason = f"expected a list of records, got {got}; name a file .jsonl that has a "
            raise DataError(self._source, "", reason + "record on each line")
        self._skip(1)
        if self._peek() != "]":
            yield from self._items_of_list()
        self._skip(1)
        if self._peek():
            raise self._error("something follows the list", self._at)

    def values(self) -> Iterator[tuple[int, object]]:
        """Values with white space or commas between them, up to the end or the list's end."""
        while self._peek() not in ("", "]"):
            start = self._offset
            yield start, self._value()
            if self._peek() == ",":
                self._skip(1)

    def lines(self) -> Iterator[tuple[int, object]]:
        """Values with white space between them, such as a line break, up to the end."""
        while self._peek():
            start = self._offset
            yield start, self._value()

    def _items_of_list(self) -> Iterator[tuple[int, object]]:
        while True:
            self._peek()
            start = self._offset
            yield start, self._value()
            end = self._peek()
            if end == "]":
                return
            if end != ",":
                raise self._error("a ',' or ']' should follow" if end else "breaks off", self._at)
            self._skip(1)

    def _peek(self) -> str:
        """The next character after white space, or nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._skip(len(space[0]) if space else 0)
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def _value(self) -> object:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._may_go_on(error) and self._read_on():
                    continue
                raise self._error(error.msg, error.pos) from error
            # A number this close to the end may go on.
            if end > len(self._text) - _NEAR_THE_END and self._read_on():
                continue
            self._skip(end - self._at)
            return value

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        if len(self._text) - self._at > _LONGEST_VALUE:
            return False
        is_near = error.pos >= len(self._text) - _NEAR_THE_END
        return is_near or error.msg.startswith("Unterminated string")

    def _read_on(self) -> bool:
        """Drop what was consumed and read another chunk; False at the end."""
        if self._is_complete:
            return False
        data = self._file.read(_CHUNK_BYTES)
        self._is_complete = not data
        begun = self._bytes_read - len(self._decoder.getstate()[0])
        try:
            more = self._decoder.decode(data, final=self._is_complete)
        except UnicodeDecodeError as error:
            where, reason = f"byte {begun + error.start}", "is not UTF-8; convert the file"
            raise DataError(self._source, where, reason) from error
        self._bytes_read += len(data)
        self._text, self._at = self._text[self._at :] + more, 0
        return True

    def _skip(self, count: int) -> None:
        passed = self._text[self._at : self._at + count]
        self._at += count
        self._offset += count if passed.isascii() else len(passed.encode())
        self._line, self._column = _place_after(passed, self._line, self._column)

    def _error(self, reason: str, position: int) -> DataError:
        before = self._text[self._at : position]
        line, column = _place_after(before, self._line, self._column)
        where = f"line {line}, column {column}"
        return DataError(self._source, where, f"is not JSON: {reason}; mend or rewrite it")


def _place_after(text: str, line: int, column: int) -> tuple[int, int]:
    breaks = text.count("\n")
    if not breaks:
        return line, column + len(text)
    return line + breaks, len(text) - text.rfind("\n")
