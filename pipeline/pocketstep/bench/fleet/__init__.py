"""What critical paths and fleets are worth (TeAM's figures), as rows that are kept.

``study`` is a recipe and the folder of its rows; ``shares`` measures one path against all and a network of some
classes, ``rounds`` fleets by method, ``growth`` a device that learns one class after the other; ``latency`` times
networks in LiteRT; ``tables`` shows it all.
"""
