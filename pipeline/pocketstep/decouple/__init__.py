"""Class-critical paths (TeAM): the end of a network split into one path a class, shared layers before them.

``region`` finds what is split, ``scores`` says which filters matter to which class, ``paths`` chooses them, ``surgery``
removes what connects one path to another, ``specialise`` takes some paths out, ``finetune`` trains them, ``stage`` does
all of it as a recipe says.
"""
