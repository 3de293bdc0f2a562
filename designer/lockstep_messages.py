"""What travels between a simulation and a policy in lockstep, and how: nothing here knows either.

The way to the policy is ``marshal``, written by the trusted side only. The way back is four bytes: a number, None,
False or True; or the length of a JSON text that follows.
"""

from __future__ import annotations

import json
import marshal
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, cast

from designer.subject import Subject, fields_read
from policies.contract import Dispatched, Finished, FirstToken, Pool, Request, Variant, Worker

Values = tuple[Any, ...]
Shown = tuple[Values, list[bytes], list[str] | None, list[tuple[str, Values]] | None]
"""A pool: its own values, the workers that have changed, the ids of all unless they are as before, the variants."""
ROUTE, ADMIT, KEY, REPLICAS, WAITING_KEY, VICTIM_KEY, BUDGET, OBSERVE = range(8)
"""A call begins with one of them."""
EVENTS: tuple[type[Dispatched] | type[FirstToken] | type[Finished], ...] = (Dispatched, FirstToken, Finished)

_WORD = struct.Struct(">I")
_MAX_CALL = 64 << 20
_MAX_TEXT = 1 << 20
_AT_ONCE = 480
"""Bytes that are read with the first word: most messages as a whole, and few enough to cost no large allocation."""
_FORMAT = 2
"""Of marshal: without references, which cost more than they save in small messages."""
_TEXT = 0x80000000
"""Of an answer's word: what is beyond is the length of a text."""
_SMALL = 0x7FFFFF00
"""An answer's word below is a number."""
_WORDS: Mapping[bool | None, int] = {None: _SMALL, False: _SMALL + 1, True: _SMALL + 2}
_USUAL: Mapping[bytes, int | bool | None] = {
    **{_WORD.pack(number): number for number in range(256)},
    **{_WORD.pack(word): value for value, word in _WORDS.items()},
}
"""Answers by how they are written."""


class LockstepError(Exception):
    """The policy's side raised, answered nonsense, or has gone."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields that travel, in order; the same on both sides, as both take it from the same sources."""

    request: tuple[str, ...]
    worker: tuple[str, ...]
    pool: tuple[str, ...]
    cached: bool
    all_workers: bool
    variants: bool


def shape_of(subject: Subject) -> Shape:
    reads = fields_read(subject)
    return Shape(
        request=_named(Request, reads),
        worker=("worker_id", *_named(Worker, reads - {"worker_id"})),
        pool=_named(Pool, reads - {"workers", "variants"}),
        cached="num_cached_tokens" in reads,
        all_workers="workers" in reads,
        variants="variants" in reads,
    )


def _named(kind: type, reads: frozenset[str]) -> tuple[str, ...]:
    return tuple([f.name for f in fields(kind) if f.name in reads])


def values_of(names: Sequence[str]) -> Callable[[Any], Values]:
    """What takes an object's fields of these names, as a tuple."""
    if len(names) > 1:
        return cast(Callable[[Any], Values], attrgetter(*names))
    return lambda thing: tuple([getattr(thing, name) for name in names])


VARIANT_VALUES = values_of([f.name for f in fields(Variant)])
EVENT_VALUES = {kind: values_of([f.name for f in fields(kind)]) for kind in EVENTS}


def packed(values: Values) -> bytes:
    """By the trusted side."""
    return marshal.dumps(values, _FORMAT)


def unpacked(data: bytes) -> Any:
    """By the policy's side."""
    return marshal.loads(data)  # noqa: S302 - from the trusted side


def write_call(fd: int, call: Values) -> None:
    data = packed(call)
    _write(fd, _WORD.pack(len(data)) + data)


def read_call(fd: int) -> Values | None:
    """None when there is nobody to answer any more."""
    try:
        data = _begun(fd)
        length: int = _WORD.unpack_from(data)[0]
        if length > _MAX_CALL:
            return None
        data += _exactly(fd, length + _WORD.size - len(data))
    except OSError:
        return None
    return cast(Values, unpacked(data[_WORD.size :]))


def answered(answer: Any) -> bytes:
    """An answer as it is written.

    Raises:
        TypeError, ValueError: it is neither small nor JSON.
    """
    if answer is None or answer is True or answer is False:
        return _WORD.pack(_WORDS[answer])
    if type(answer) is int and 0 <= answer < _SMALL:
        return _WORD.pack(answer)
    return _in_words({"answer": answer})


def failed(why: str) -> bytes:
    """As it is written that there is no answer."""
    return _in_words({"error": why})


def _in_words(answer: Mapping[str, Any]) -> bytes:
    text = json.dumps(answer).encode()
    return _WORD.pack(_TEXT + len(text)) + text


def write_answer(fd: int, data: bytes) -> None:
    _write(fd, data)


def read_answer(fd: int) -> Any:
    """What the policy's side says; nothing that it can write does more here than raise.

    Raises:
        LockstepError: it has gone, says that it has no answer, or wrote anything else than one answer.
    """
    try:
        data = _begun(fd)
        if data in _USUAL:
            return _USUAL[data]
        word: int = _WORD.unpack_from(data)[0]
        if word >= _TEXT:
            return _content(_text(fd, data[_WORD.size :], word - _TEXT))
    except (OSError, ValueError, RecursionError) as error:
        raise LockstepError(f"the policy's process has gone or answered nonsense: {error}") from None
    if len(data) > _WORD.size or word >= _SMALL:
        raise LockstepError("the policy's process answered nonsense: not one answer")
    return word


def _text(fd: int, begun: bytes, length: int) -> Any:
    if length > _MAX_TEXT or len(begun) > length:
        raise OSError(f"a message of {length} bytes")
    return json.loads(begun + _exactly(fd, length - len(begun)))


def _content(answer: Any) -> Any:
    if not isinstance(answer, dict) or "answer" not in answer:
        raise LockstepError(str(answer.get("error")) if isinstance(answer, dict) else "no answer")
    return answer["answer"]


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


def _begun(fd: int) -> bytes:
    """What there is of a message, its first word at least."""
    data = os.read(fd, _AT_ONCE)
    return data if len(data) >= _WORD.size else data + _exactly(fd, _WORD.size - len(data))


def _exactly(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = os.read(fd, length - len(data))
        if not chunk:
            raise OSError("closed")
        data += chunk
    return data
