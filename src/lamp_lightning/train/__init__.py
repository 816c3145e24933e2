"""Tuning a motion: the Lightning module, its callbacks and samples, and the command."""
