"""How well a device learns: every method on the same stream of classes, from the same base, through bundle programs.

``material`` trains the base and builds the bundles, ``stream`` orders the classes and counts, ``incremental`` lets
devices learn class by class, ``shift`` under another camera, ``rivals`` are methods that ship nowhere, ``results``
prints and draws.
"""
