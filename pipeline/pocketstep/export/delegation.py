"""How much of a ``.tflite`` program XNNPACK takes: LiteRT is asked, not guessed.

LiteRT's Python binding shows the delegate's nodes of a model's first subgraph only, so one signature at a time is cut
out into a model of its own. A delegate's node names the tensors that it reads and writes, not the operators that it
replaced: those are what lies between.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from pocketstep_device.errors import InputError

HEAVY = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""Operators that must not run on LiteRT's own kernels."""

_IDENTIFIER = b"TFL3"
_DELEGATE = "DELEGATE"
_BROKEN = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError)


class Delegation(NamedTuple):
    """How many delegates a signature was cut into, and the operators that none of them took, in order."""

    delegates: int
    outside: list[str]


def delegation(tflite: bytes, signature: str) -> Delegation:
    """Asks LiteRT, as it is installed here, what XNNPACK takes of one signature.

    Args:
        tflite: the program file's bytes.
        signature: one of its signatures.

    Raises:
        InputError: no such signature, or no readable program.
    """
    model = single_signature(read_model(tflite), signature)
    names, delegates, taken = ask(model)
    return Delegation(delegates, [name for index, name in enumerate(names) if index not in taken])


def ask(model: Any) -> tuple[list[str], int, set[int]]:
    """Lets LiteRT prepare a model of one subgraph.

    Returns:
        The operators' names in order, how many delegates there are, and the indices of the operators they took.

    Raises:
        InputError: LiteRT does not load it.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=pack_model(model), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"LiteRT cannot load this part of the program: {error}. Build the bundle again") from error
    details = interpreter._get_ops_details()
    count = len(model.subgraphs[0].operators)
    delegates = [node for node in details[count:] if node["op_name"] == _DELEGATE]
    return [n["op_name"] for n in details[:count]], len(delegates), _replaced(details[:count], delegates)


def _replaced(nodes: Sequence[dict[str, Any]], delegates: Sequence[dict[str, Any]]) -> set[int]:
    """The nodes between what delegates read and what they write."""
    writer = {int(tensor): index for index, node in enumerate(nodes) for tensor in node["outputs"]}
    found: set[int] = set()
    for delegate in delegates:
        read = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            index = writer.get(tensor)
            if tensor not in read and index is not None and index not in found:
                found.add(index)
                waiting += [int(source) for source in nodes[index]["inputs"]]
    return found


def read_model(tflite: bytes) -> Any:
    """The program as objects (``ModelT`` of LiteRT's schema).

    Raises:
        InputError: the bytes are no such program.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        if tflite[4:8] != _IDENTIFIER:
            raise ValueError("it has no TFL3 identifier")
        return schema.ModelT.InitFromPackedBuf(tflite, 0)
    except _BROKEN as error:
        raise InputError(f"this is no LiteRT program ({error}); build the bundle again") from error


def pack_model(model: Any) -> bytes:
    """The counterpart of :func:`read_model`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def single_signature(model: Any, signature: str) -> Any:
    """Cuts one signature out, in place: a model of one subgraph, constants of the others emptied.

    Raises:
        InputError: the model has no such signature, or it calls another subgraph.
    """
    definitions = {d.signatureKey.decode(): d for d in model.signatureDefs or []}
    if signature not in definitions:
        raise InputError(f"the program has no signature '{signature}', only {', '.join(definitions) or 'none'}")
    definition = definitions[signature]
    graph = model.subgraphs[definition.subgraphIndex]
    for operator in graph.operators:
        for options in (operator.builtinOptions, operator.builtinOptions2):
            if options is not None and any("ubgraph" in name for name in vars(options)):
                raise InputError(f"'{signature}' calls another part of the program; only straight ones can be cut out")
    definition.subgraphIndex = 0
    model.subgraphs, model.signatureDefs = [graph], [definition]
    model.metadata = model.metadataBuffer = None
    used = {tensor.buffer for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return model
