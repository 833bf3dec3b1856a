"""``python -m pocketstep_device`` is ``pocketstep-device``."""

from pocketstep_device.cli import main

raise SystemExit(main())
