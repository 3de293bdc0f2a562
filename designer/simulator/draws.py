"""Random streams keyed by (seed, purpose), one number for each request index.

Every distribution is an inverse transform of exactly one uniform number, so that the draw of a request for a purpose
depends on nothing but seed, purpose and index: no decision, and no other parameter, can shift it. NumPy promises the
Philox stream and ``random()`` to stay the same from version to version, which it does not for its distributions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def uniforms(seed: int, purpose: str, count: int) -> Floats:
    """``count`` numbers in the open interval (0, 1)."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "little")
    raw = np.random.Generator(np.random.Philox(key=key)).random(count)
    return raw + 2.0**-54


def standard_normals(seed: int, purpose: str, count: int) -> Floats:
    return np.asarray(special.ndtri(uniforms(seed, purpose, count)), dtype=np.float64)


def exponentials(seed: int, purpose: str, count: int) -> Floats:
    """Of mean 1."""
    return -np.log(uniforms(seed, purpose, count))


def unit_lognormals(seed: int, purpose: str, count: int, sigma: float) -> Floats:
    """Log-normal numbers of mean 1."""
    normals = standard_normals(seed, purpose, count)
    return np.asarray(np.exp(sigma * normals - sigma * sigma / 2), dtype=np.float64)


def unit_gammas(seed: int, purpose: str, count: int, cv: float) -> Floats:
    """Gamma numbers of mean 1 and this coefficient of variation."""
    shape = 1.0 / (cv * cv)
    return np.asarray(special.gammaincinv(shape, uniforms(seed, purpose, count)) / shape, dtype=np.float64)


def choices(seed: int, purpose: str, count: int, weights: Floats) -> Ints:
    """Indices into ``weights``, drawn in proportion to them."""
    bounds = np.cumsum(weights) / np.sum(weights)
    found = np.searchsorted(bounds, uniforms(seed, purpose, count), side="right")
    return np.minimum(found, len(weights) - 1).astype(np.int64)
