"""The Flower app of a fleet; all it does is in ``pocketstep.federate``."""
