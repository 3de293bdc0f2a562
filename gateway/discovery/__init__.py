"""Where workers come from: each source yields the set of workers that should exist."""
