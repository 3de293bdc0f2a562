"""Autoscaling policies: how many replicas of each variant are wanted."""
