"""Batch policies: inside the engine, who is admitted and who is preempted first, and how much a step prefills."""
