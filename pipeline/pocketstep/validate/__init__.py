"""Replays a bundle's golden trace where it shall run, and says what it saw."""
