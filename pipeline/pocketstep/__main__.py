"""``python -m pocketstep`` is ``pocketstep``."""

from pocketstep.cli import main

main()
