"""Seeded mutations of HTTP bytes: small damage that keeps most of a message readable, which is where parsers err."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

TOKENS = (
    *[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"\xff",
        b"\x80",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"#",
    ],
    *[
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"expect: 100-continue\r\n",
    ],
    *[b"connection: upgrade\r\nupgrade: x\r\n", b"HTTP/1.0", b"HTTP/1.1", b"host: a\r\n", b"ffffffffffffffff", b"-1"],
    *[b"data: ", b"data: [DONE]\n\n", b"\n\n", b": x\n\n", b'{"error":{"code":503}}', b"\xf0\x9f\x98\x80", b"x" * 3000],
)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` after none to five changes."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        data = rng.choice(_CHANGES)(rng, data, seeds)
    return data


def _flip(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _delete(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + data[at + rng.choice((1, 1, 2, 8, 40)) :]


def _repeat(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[:at], lines[at], *lines[at:]])


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _cut(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


_CHANGES = (_flip, _flip, _insert, _insert, _delete, _repeat, _splice, _cut)


def split(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` in pieces: whole, by byte, or cut at random places."""
    how = rng.random()
    if how < 0.3 or len(data) < 2:
        return [data] if data else []
    if how < 0.4 and len(data) < 600:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(rng.randrange(1, 6)))})
    return [data[a:b] for a, b in itertools.pairwise(cuts)]
