"""Policies that fill more than one slot."""
