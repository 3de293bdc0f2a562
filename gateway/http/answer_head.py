"""The head of a worker's answer: what goes on to the client, and how the body is framed.

A worker writes the same head again and again, but for its length and a date that changes once a second: what was made
of one is kept by its bytes (``Heads``), the digits of its length left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from gateway.http.known_head import LENGTHS, MAX_DIGITS

Framing = Literal["chunked", "length", "close", "none"]


class FaultyHeadError(Exception):
    """A head whose answer a client could take for another one."""


class AnswerHead:
    """Made once, then only read."""

    __slots__ = (
        "_after_length",
        "_before_length",
        "content_type",
        "framing",
        "length",
        "named",
        "skips_parser",
        "status",
    )

    def __init__(self, status: int) -> None:
        self.status = status
        self.content_type = b""
        self.framing: Framing = "close"
        self.length = 0
        """Of the body, where ``framing`` is ``length``."""
        self.named = b""
        """What ``Connection`` names: for the worker's connection alone."""
        self.skips_parser = False
        """The parser took an answer with this head, its body in the same read, and would keep the connection: one that
        differs in its length alone it would take as well."""
        self._before_length = b""
        self._after_length = b""

    def lines(self, digits: bytes) -> bytes:
        """The status line and the end-to-end headers, each with its line end. ``digits``: of this answer's length."""
        return self._before_length + digits + self._after_length if self._after_length else self._before_length

    def keep_lines(self, text: bytes, digits: bytes) -> None:
        """``digits``: what ``without_length`` found in the head; empty where that is no part of another one's."""
        self._before_length = text
        for name in LENGTHS if digits else ():
            if (at := text.find(name)) >= 0:
                start = at + len(name)
                self._before_length, self._after_length = text[:start], text[start + len(digits) :]


def read_head(head: bytes, status: int, digits: bytes = b"") -> AnswerHead:
    """Of a head without the empty line at its end, which the parser has accepted: its lines are well formed. But the
    parser also lets pass empty lines before the head, NUL in the reason, and codings that cannot be passed on.

    Raises:
        FaultyHeadError: it is one of these.
    """
    status_line, *lines = head.split(b"\r\n")
    if status_line[9:12] != b"%d" % status or status_line[:7] != b"HTTP/1." or b"\0" in status_line:
        raise FaultyHeadError
    answer = AnswerHead(status)
    kept = [line for line in lines if _keeps(answer, line)]
    if answer.named:
        names = {token.strip() for token in answer.named.split(b",")}
        kept = [line for line in kept if not _is_named(line, names)]
    if status in (204, 304):
        answer.framing, answer.length = "none", 0
    answer.keep_lines(b"\r\n".join((b"HTTP/1.1 %d %b" % (status, status_line[13:]), *kept, b"")), digits)
    return answer


def _keeps(answer: AnswerHead, line: bytes) -> bool:
    """Notes what must be known of a header; whether it goes on to the client."""
    name, _, value = line.partition(b":")
    note = _NOTES.get(name.lower())
    return note is None or note(answer, value)


def _is_named(line: bytes, names: set[bytes]) -> bool:
    name = line.partition(b":")[0].strip().lower()
    return name not in _END_TO_END and name in names


def _drop(answer: AnswerHead, value: bytes) -> bool:
    return False


def _content_type(answer: AnswerHead, value: bytes) -> bool:
    answer.content_type = value.strip()
    return True


def _connection(answer: AnswerHead, value: bytes) -> bool:
    value = value.strip().lower()
    if value not in (b"close", b"keep-alive"):
        answer.named += value + b","
    return False


def _content_length(answer: AnswerHead, value: bytes) -> bool:
    answer.framing = "length"
    answer.length = int(value)
    return True


def _transfer_encoding(answer: AnswerHead, value: bytes) -> bool:
    if answer.framing != "close" or value.strip().lower() != b"chunked":
        raise FaultyHeadError
    answer.framing = "chunked"
    return False


_NOTES: dict[bytes, Callable[[AnswerHead, bytes], bool]] = {
    b"content-type": _content_type,
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"connection": _connection,
    b"keep-alive": _drop,
    b"proxy-authenticate": _drop,
    b"proxy-connection": _drop,
    b"upgrade": _drop,
    b"x-request-id": _drop,
    b"x-ranvier-worker": _drop,
}
_END_TO_END = frozenset((b"content-type", b"content-length"))
"""Of every answer, whatever ``Connection`` says: without them the client could not read it."""


class Heads:
    """Those that one worker wrote lately."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, AnswerHead] = {}

    def read(self, head: bytes, status: int) -> tuple[AnswerHead, bytes]:
        """As ``read_head``, and the digits of the length where they stand as usual; a head that is known is not read
        again."""
        key, digits = without_length(head)
        known = self._known.get(key)
        if known is not None and known.status == status and (digits or known.framing != "length"):
            return known, digits
        answer = read_head(head, status, digits)
        if len(key) <= _MAX_KNOWN_BYTES and (digits or answer.framing != "length"):
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = answer
        return answer, digits

    def of_whole(self, data: bytes) -> tuple[AnswerHead, bytes, bytes] | None:
        """Head, digits of the length and body of ``data``, where it is one whole answer whose head tells the length and
        is known, so that the parser need not be asked."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        key, digits = without_length(data[:end])
        known = self._known.get(key)
        if known is None or not known.skips_parser or not digits or len(data) - end - 4 != int(digits):
            return None
        return known, digits, data[end + 4 :]


def without_length(head: bytes) -> tuple[bytes, bytes]:
    """The head without the digits of its ``content-length``, and these; the head and nothing where that line is not
    written as usual, or has more than that."""
    for name in LENGTHS:
        at = head.find(name)
        if at >= 0:
            start = at + len(name)
            end = head.find(b"\r", start)
            digits = head[start:end] if end >= 0 else head[start:]
            if len(digits) <= MAX_DIGITS and digits.isdigit():
                return head[:start] + head[start + len(digits) :], digits
    return head, b""


_MAX_KNOWN = 64
_MAX_KNOWN_BYTES = 2_048
