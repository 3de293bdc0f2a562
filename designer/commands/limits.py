"""The largest numbers the commands take: far above what anybody waits for, so that a slip of the hand is an error."""

MOST_SEEDS = 100_000
"""Of one policy on one scenario; also pairs of a replay, and finalists."""
MOST_SIMULATIONS = 100_000_000
"""Of one search."""
MOST_JOBS = 4096
"""Processes at a time."""
LAST_SEED = 2**53
"""Every integer up to here is the same in JSON, in a ledger and in a float."""
