from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load, save

from pocketstep_device.errors import BundleError, InputError
from pocketstep_device.tensors import MAX_HEADER, parse_json, read_tensors, write_tensors

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_]


def raw(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None,
    )
)
names = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda name: name != "__metadata__")
tensor_dicts = st.dictionaries(names, arrays, max_size=5)
metadatas = st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=3)


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def test_bytes_are_the_formats() -> None:
    tensors = {"b": np.array([[1, -2]], np.int8), "a": np.array([1.5], np.float32)}
    header = (
        b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"I8","shape":[1,2],"data_offsets":[4,6]}}'
    )
    header += b" " * (-len(header) % 8)
    expected = bytes([len(header), 0, 0, 0, 0, 0, 0, 0]) + header + b"\x00\x00\xc0\x3f" + b"\x01\xfe"
    assert write_tensors(tensors, {"k": "v"}) == expected
    read, metadata = read_tensors(expected, "test")
    assert_same(read, tensors)
    assert metadata == {"k": "v"}


def test_no_tensors() -> None:
    assert read_tensors(write_tensors({}), "test") == ({}, {})


@settings(max_examples=40, deadline=None)
@given(tensor_dicts, metadatas)
def test_round_trip(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    data = write_tensors(tensors, metadata)
    read, read_metadata = read_tensors(memoryview(data), "test")
    assert_same(read, tensors)
    assert read_metadata == metadata
    assert write_tensors(dict(reversed(read.items())), read_metadata) == data


@settings(max_examples=40, deadline=None)
@given(tensor_dicts)
def test_safetensors_reads_ours_and_we_read_its(tensors: dict[str, Any]) -> None:
    tensors = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    assert_same(load(write_tensors(tensors, {"k": "v"})), tensors)
    assert_same(read_tensors(save(tensors, {"k": "v"}), "test")[0], tensors)


def test_safetensors_reads_our_metadata(tmp_path: Any) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(write_tensors({"a": np.zeros(2, np.int32)}, {"grün": "é\n"}))
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"grün": "é\n"}


def test_arrays_are_aligned_and_read_only_even_at_odd_addresses() -> None:
    data = b"x" + raw({"a": entry(), "b": entry("F64", [1], [4, 12])}, bytes(12))
    read, _ = read_tensors(memoryview(data)[1:], "test")
    for array in read.values():
        assert array.flags.aligned
        assert not array.flags.writeable


def test_views_share_the_files_memory() -> None:
    data = write_tensors({"a": np.arange(1000, dtype=np.int8)})
    assert np.shares_memory(read_tensors(data, "test")[0]["a"], np.frombuffer(data, np.uint8))


def test_big_endian_and_strided_arrays_are_written_right() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(read_tensors(write_tensors({"a": array}), "test")[0]["a"], array)


F4 = bytes(4)
MALFORMED = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "huge header length": b"\xff" * 8 + b"{}",
    "header over the cap": (MAX_HEADER + 8).to_bytes(8, "little") + b"{" + b" " * (MAX_HEADER + 7),
    "space before the header": raw(b" {}"),
    "header is a list": raw(b"[]"),
    "header is cut": raw(b'{"a":'),
    "header is no utf-8": raw(b'{"\xff": 1}'),
    "lone surrogate": raw(b'{"__metadata__": {"a": "\\ud800"}}'),
    "deep nesting": raw(b'{"a":' + b"[" * 100_000),
    "long integer": raw(b'{"a":' + b"1" * 10_000 + b"}"),
    "NaN in the header": raw(b'{"a": NaN}'),
    "duplicate tensor": raw(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), F4),
    "duplicate key": raw(b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', F4),
    "metadata is a list": raw({"__metadata__": []}),
    "metadata of numbers": raw({"__metadata__": {"a": 1}}),
    "tensor is a number": raw({"a": 1}),
    "missing shape": raw({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, F4),
    "unknown field": raw({"a": entry(more=1)}, F4),
    "unknown type": raw({"a": entry("F128")}, F4),
    "type is a list": raw({"a": entry(["F32"])}, F4),
    "shape is a number": raw({"a": entry(shape=1)}, F4),
    "negative size": raw({"a": entry(shape=[-1])}, F4),
    "size is a float": raw({"a": entry(shape=[1.0])}, F4),
    "size is a bool": raw({"a": entry(shape=[True])}, F4),
    "one offset": raw({"a": entry(offsets=[4])}, F4),
    "offsets reversed": raw({"a": entry(offsets=[4, 0])}, F4),
    "offsets past the end": raw({"a": entry(shape=[2], offsets=[0, 8])}, F4),
    "offset does not fit 64 bits": raw({"a": entry(shape=[2**70], offsets=[0, 2**72])}, F4),
    "product overflows": raw({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}),
    "empty with a huge size": raw({"a": entry(shape=[2**62, 0], offsets=[0, 0])}),
    "too many sizes": raw({"a": entry(shape=[1] * 33)}, F4),
    "shape contradicts length": raw({"a": entry(shape=[2])}, F4),
    "gap at the beginning": raw({"a": entry(offsets=[4, 8])}, bytes(8)),
    "gap between": raw({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
    "overlap": raw({"a": entry(shape=[2], offsets=[0, 8]), "b": entry(offsets=[4, 8])}, bytes(8)),
    "same bytes twice": raw({"a": entry(), "b": entry()}, F4),
    "bytes left over": raw({"a": entry()}, bytes(5)),
    "bytes without tensor": raw({}, bytes(1)),
    "not a number": raw({"a": entry()}, np.float32("nan").tobytes()),
    "infinity in half": raw({"a": entry("F16", [2], [0, 4])}, np.array([0, np.inf], np.float16).tobytes()),
    "bool of two": raw({"a": entry("BOOL", [4], [0, 4])}, b"\0\1\2\1"),
    "long name": raw({"a" * 1000: entry()}, F4),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"(?i)the test file"):
        read_tensors(data, "The test file", error=BundleError)


def test_every_cut_is_noticed() -> None:
    data = write_tensors({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.int8)}, {"k": "v"})
    for length in range(len(data)):
        with pytest.raises(InputError):
            read_tensors(data[:length], "test")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_gives_tensors_or_an_input_error(data: st.DataObject) -> None:
    good = bytearray(write_tensors({"a": np.ones(3, np.float32), "b": np.zeros(2, np.bool_)}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_tensors(bytes(good), "test")
    except InputError:
        return


def test_nonfinite_values_can_be_allowed() -> None:
    array = np.array([np.nan, np.inf], np.float32)
    data = write_tensors({"a": array}, allow_nonfinite=True)
    np.testing.assert_array_equal(read_tensors(data, "test", allow_nonfinite=True)[0]["a"], array)
    with pytest.raises(InputError, match="'a' holds NaN"):
        write_tensors({"a": array})


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"a": np.zeros(1, np.complex64)}, {}),
        ({"a": np.array([{}], object)}, {}),
        ({"__metadata__": np.zeros(1)}, {}),
        ({"a" * 600: np.zeros(1)}, {}),
        ({"\ud800": np.zeros(1)}, {}),
        ({}, {"k": "\udfff"}),
        ({}, {"k": "x" * MAX_HEADER}),
    ],
)
def test_unwritable(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    with pytest.raises(InputError):
        write_tensors(tensors, metadata)


def test_json_is_strict_about_text_too() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "\\ud83d\\ude00"]}', "test") == {"a": [1, 2.5, None, "😀"]}
    with pytest.raises(InputError, match=r"manifest\.json is not valid JSON"):
        parse_json(b"\xef\xbb\xbf{}", "manifest.json")
