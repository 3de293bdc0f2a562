"""A model of a vLLM engine, and a server that runs it in real time. Imports nothing of the gateway."""
