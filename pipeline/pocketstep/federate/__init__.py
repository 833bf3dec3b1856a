"""Fleets on Flower: devices train the parts of their classes, the server averages them, the next bundle has them.

``aggregate`` is arithmetic on named tensors, without Flower; ``methods`` says which parts a method shares; ``strategy``
and ``client`` are a Flower ``Strategy`` and ``ClientApp`` over them; ``next_bundle`` writes what came of it;
``simulate`` runs it all on this machine.
"""
