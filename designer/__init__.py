"""The offline designer: proposes, checks, simulates and promotes policies."""
