"""The decisions of the gateway: events in, commands out; no I/O, no clock, no logging, no asyncio."""
