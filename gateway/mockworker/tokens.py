"""The mock worker's tokenizer, prefix digests and output lengths.

The rule: one token is four UTF-8 bytes of prompt text, rounded up, and nothing is added for a chat template
(at least one token). A token's id is its four bytes as a little-endian number, so token ids and text are two
spellings of one prompt: they count the same and hit the same prefix cache.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from hashlib import blake2b

BYTES_PER_TOKEN = 4
MAX_TOKEN_ID = 2**32 - 1

WORDS = (
    b" act add age aid aim air all and any arc are arm art ask axe bag bar bay bed bee big bin bit bow box bud bus"
    b" cab can cap car cat cot cow cup cut day dew dig dip dog dot dry ear eel elm end fan far fig fir fit fly fog fox"
    b" gap gem ink ivy jar key map net nod"
)
"""64 words of three letters and their space: four bytes, so that a token of output is a token of the next prompt."""
NUM_WORDS = len(WORDS) // BYTES_PER_TOKEN


def num_tokens(prompt: bytes) -> int:
    return max(1, -(-len(prompt) // BYTES_PER_TOKEN))


def encode(prompt: bytes) -> list[int]:
    """Ids of the tokens of ``prompt``, the last padded with zero bytes."""
    padded = prompt + bytes(-len(prompt) % BYTES_PER_TOKEN)
    return [int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), BYTES_PER_TOKEN)]


def decode(token_ids: Sequence[int]) -> bytes:
    """The bytes of ``token_ids``, its padding dropped."""
    return pack(token_ids).rstrip(b"\0")


def pack(token_ids: Sequence[int]) -> bytes:
    """The prompt that ``token_ids`` spell, four bytes each (OverflowError or TypeError for what is no id)."""
    ids = array("I", token_ids)
    return ids.tobytes()


def prefix_chunks(prompt: bytes, block_size: int, salt: str = "") -> tuple[tuple[int, int], ...]:
    """Of each full block of ``prompt``: (64-bit digest of everything up to its end, tokens up to its end).

    Two prompts share keys exactly as far as they share blocks; ``salt`` (vLLM's ``cache_salt``) sets all apart.
    """
    size = block_size * BYTES_PER_TOKEN
    running = blake2b(salt.encode(), digest_size=8)
    chunks = []
    for end in range(size, len(prompt) + 1, size):
        running.update(prompt[end - size : end])
        chunks.append((int.from_bytes(running.digest(), "little"), end // BYTES_PER_TOKEN))
    return tuple(chunks)


def draw_output_tokens(request_id: str, seed: int, median: float, sigma: float) -> int:
    """A log-normal length that depends on the seed and the request's id alone, at least 1."""
    rng = random.Random(f"{seed}/output/{request_id}")
    return max(1, round(median * rng.lognormvariate(0.0, sigma)))


def first_word(request_id: str) -> int:
    """Where in ``WORDS`` the answer to a request starts."""
    return blake2b(request_id.encode(), digest_size=1).digest()[0] % NUM_WORDS


def word(index: int) -> bytes:
    at = index % NUM_WORDS * BYTES_PER_TOKEN
    return WORDS[at : at + BYTES_PER_TOKEN]


def text(start: int, count: int) -> bytes:
    """``count`` tokens of an answer that starts at word ``start``."""
    whole = WORDS * (2 + count // NUM_WORDS)
    at = start % NUM_WORDS * BYTES_PER_TOKEN
    return whole[at : at + count * BYTES_PER_TOKEN]
