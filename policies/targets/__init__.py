"""Targets: a policy set and an inventory in, plain objects out. One module a target; each has `emit`."""
