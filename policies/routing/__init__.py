"""Routing policies: which worker a request goes to, or whether it is held."""
