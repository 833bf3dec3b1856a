"""Measures bundles side by side on this machine: time, memory, and where a step's time goes."""
