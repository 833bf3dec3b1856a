"""Cloud side of pocketstep: from a trained CNN to a learning bundle."""

__version__ = "0.1.0"
