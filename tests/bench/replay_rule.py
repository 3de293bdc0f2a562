"""What the rule for replays finds, and how often a contradiction is repeated away, on made-up pairs.

``python -m tests.bench.replay_rule``: for a real ratio, a simulated one and the spread of the pairs (standard deviation
of the real log-ratio), over 300 histories of 60 pairs, looked at every five: the share called contradicted by 10 pairs
and at any time, and the share of the former that somebody who goes on gets back.
"""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

from designer.replay_evidence import CONTRADICTED, OUTWEIGHED, evidence_after_each, stands
from tests.support.replay_pairs import pairs

CASES = ((0.80, 0.80, 0.10), (0.88, 0.80, 0.10), (0.95, 0.80, 0.10), (1.00, 0.80, 0.05), (1.05, 0.90, 0.05))
CASES += ((1.10, 0.90, 0.10), (1.02, 0.95, 0.02))
HISTORIES, LENGTH, STEP = 300, 60, 5


def standing_after(ratios: list[float], simulated: float) -> list[bool]:
    """After every ``STEP`` pairs, whether a contradiction stands."""
    evidence = evidence_after_each(pairs(ratios, simulated))
    return [stands(evidence[:length]) for length in range(STEP, LENGTH + 1, STEP)]


def main() -> None:
    """Prints a Markdown table."""
    print(f"evidence {CONTRADICTED:g} contradicts, {OUTWEIGHED:g} outweighs\n")
    print("| real | simulated | spread | contradicted by 10 pairs | by 60 | of the first, got back |")
    print("|---|---|---|---|---|---|")
    for real, simulated, spread in CASES:
        rng = random.Random(1)
        draws = [[real * math.exp(rng.gauss(0.0, spread)) for _ in range(LENGTH)] for _ in range(HISTORIES)]
        histories = [standing_after(ratios, simulated) for ratios in draws]
        early = [found for found in histories if any(found[:2])]
        back = [any(before and not after for before, after in pairwise(found)) for found in early]
        ever = statistics.mean(any(found) for found in histories)
        share = f"{statistics.mean(back):.1%}" if back else ""
        print(f"| {real:g} | {simulated:g} | {spread:g} | {len(early) / HISTORIES:.0%} | {ever:.0%} | {share} |")


if __name__ == "__main__":
    main()
