"""From a trained network to graphs of inference operators.

``trace`` turns a module into one graph, ``plan`` decides what is trained, ``walk`` runs that graph in NHWC with
``rules`` and ``operators`` (a backward of inference operators for each), and ``signatures`` writes the programs of
a bundle as functions, which ``lower`` traces through autograd into plain inference graphs. ``oracle`` says
what PyTorch's autograd thinks of it.
"""
