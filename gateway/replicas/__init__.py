"""Actuators: how a wanted number of replicas becomes running workers."""
