"""Policies and the contract they keep. Imports the standard library only."""
