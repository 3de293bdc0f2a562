"""Prompt text of about a given number of tokens, the same for the same lengths and hash ids, on every machine.

The rule: a token is one three-letter English word and a space, four bytes. Common words are one token each to the
tokenizers of current models, and servers that estimate from bytes take four bytes for a token. Each block of 512
tokens begins with eight bytes made of its hash id, so prompts with the same leading ids have identical text as far as
those ids go, and no further; a prompt without ids shares nothing but chance with any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

from loadgen.trace import BLOCK_TOKENS

BYTES_PER_TOKEN = 4
_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
_WORDS = """
    the and for are but not you all any can her was one our out day get has him his how man new now old see two way
    who boy did its let put say she too use dad mom cat dog sun sky sea air car bus red hot big far few try ask buy
    cut eat end fly got hit job key law lot low map
"""
_POOL_WORDS = 16_384


class Prompts:
    """Makes prompts by slicing one pool of words, which costs a few microseconds a block.

    ``salt`` goes into every block: prompts of two runs with different salts share nothing, so that the second does
    not find the first one's prompts in a server's prefix cache.
    """

    def __init__(self, salt: str = "") -> None:
        self._salt = salt
        self._pool = " ".join(Random("prompts").choices(_WORDS.split(), k=_POOL_WORDS)) + " "

    def text(self, num_tokens: int, hash_ids: Sequence[int] | None, unique: str) -> str:
        """``num_tokens`` words: a block for each of ``hash_ids``, then text that belongs to ``unique`` alone."""
        shared = [self._block(f"h{hash_id}") for hash_id in (hash_ids or ())[: -(-num_tokens // BLOCK_TOKENS)]]
        missing = num_tokens - len(shared) * BLOCK_TOKENS
        own = [self._block(f"u{unique}/{n}") for n in range(-(-missing // BLOCK_TOKENS))]
        return "".join([*shared, *own])[: num_tokens * BYTES_PER_TOKEN]

    def _block(self, key: str) -> str:
        digest = hashlib.blake2b(f"{self._salt}/{key}".encode(), digest_size=8).hexdigest()
        start = int(digest, 16) % (_POOL_WORDS - BLOCK_TOKENS) * BYTES_PER_TOKEN
        return f"{digest[:3]} {digest[3:6]} " + self._pool[start : start + _BLOCK_BYTES - 8]
