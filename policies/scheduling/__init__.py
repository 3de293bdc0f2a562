"""Scheduling policies: whether a request is admitted, and the order of the held."""
