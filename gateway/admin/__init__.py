"""The control plane, on a port of its own."""
