"""Version 5 .mat files, beside SciPy, which writes and reads them too."""

import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from generalist.input_pipeline.sources import matlab
from generalist.input_pipeline.sources.files import LayoutError

RNG = np.random.default_rng(0)
NUMBERS = {
    name: (100 * RNG.random((2, 3, 4))).astype(name)
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
} | {"float32": RNG.random((5, 1)).astype(np.float32), "float64": RNG.random((1, 7))}

HEADER = b"MATLAB 5.0 MAT-file".ljust(124)

# SciPy's reader ends the process at this element.
CRASHES_SCIPY = bytes.fromhex(
    "0f00000036000000789ce36360605801c46c40cc01c49c0c10c00ac42240cc08c44c40cc02c5cc507946a89ea4"
    "9cfce4ec6288a80490388d0490388d04"
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.mat"


def array(shape, stored, claimed=None, kind=2, name=b"a", flags=9):
    """Returns the element of a uint8 array, in the little byte order."""

    def element(kind, data):
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    claimed = len(stored) if claimed is None else claimed
    inside = element(6, struct.pack("<II", flags, 0))
    inside += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    inside += struct.pack("<II", kind, claimed) + stored
    return struct.pack("<II", 14, len(inside)) + inside


def packed(element):
    """Returns an element, compressed."""
    data = zlib.compress(element)
    return struct.pack("<II", 15, len(data)) + data


def mat(*elements, version=1):
    return HEADER + struct.pack("<H", version << 8) + b"IM" + b"".join(elements)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_kind_of_number_reads_as_scipy_reads_it(file, compressed):
    others = {"text": "words", "cells": np.array([[1, "a"]], object), "z": np.ones(2) * 1j}
    scipy.io.savemat(file, NUMBERS | others, do_compression=compressed)

    held = matlab.variables(str(file))
    assert {name: held[name] for name in others} == {
        "text": ((1, 5), ""),
        "cells": ((1, 2), ""),
        "z": ((1, 2), ""),
    }
    theirs = scipy.io.loadmat(file)
    for name in NUMBERS:
        ours = matlab.read_variable(str(file), name)
        assert held[name] == (theirs[name].shape, theirs[name].dtype.name)
        assert ours.dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours, theirs[name])


def test_whole_numbers_in_fewer_bytes_and_the_other_byte_order(file):
    # MATLAB stores a double array of small numbers as bytes; up to four of them in the tag itself.
    small = array((1, 3), b"", kind=0, flags=6)[:-8] + struct.pack("<HH", 2, 3) + b"\1\2\3\0"
    file.write_bytes(mat(array((1, 6), bytes([9, 8, 7, 6, 5, 4, 0, 0]), claimed=6, flags=6), small))
    first = matlab.read_variable(str(file), "a")
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, [[9, 8, 7, 6, 5, 4]])
    file.write_bytes(mat(small))
    np.testing.assert_array_equal(matlab.read_variable(str(file), "a"), [[1, 2, 3]])

    # Of a machine that has the high byte first.
    big = HEADER + struct.pack(">H", 256) + b"MI"
    inside = struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 1, 2)
    inside += struct.pack(">I", (1 << 16) + 1) + b"a\0\0\0" + struct.pack(">HHHH", 0, 4, 0, 4)
    inside = inside[:-8] + struct.pack(">HHHH", 4, 4, 500, 600)
    file.write_bytes(big + struct.pack(">II", 14, len(inside)) + inside)
    expected = scipy.io.loadmat(file)["a"]
    np.testing.assert_array_equal(matlab.read_variable(str(file), "a"), expected)
    np.testing.assert_array_equal(expected, [[500, 600]])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (mat(CRASHES_SCIPY), "bytes are lost"),
        (b"no matrix", "it has no header of a .mat file"),
        (mat(version=2), "it is of version 7.3"),
        (mat(version=9), "unknown version 9"),
        (mat(array((2, 2), b"abcd"))[:-2], "2 bytes are lost"),
        (mat(array((2, 2), b"abcd", claimed=9)), "its shape is (2, 2), its numbers have 9 bytes"),
        (mat(array((2, 2), b"abcd", kind=99)), "its numbers have the unknown type 99"),
        (mat(array((-2, 2), b"abcd")), "'a' has the shape [-2, 2]"),
        (mat(array((2,) * 33, b"")), "an element of 132 bytes, where 128 are the most"),
        (mat(array((2, 2), b"abcd", name=b"n" * 65)), "an element of 65 bytes, where 64 are"),
        (mat(struct.pack("<II", 15, 8) + b"no zlib."), "Error -3"),
    ],
)
def test_a_damaged_file_is_one_error(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(LayoutError, match=re.escape(reason)) as caught:
        matlab.read_variable(str(file), "a")
    assert str(caught.value).startswith(f"{file}: cannot be read (")
    assert str(caught.value).endswith("It must be a whole version 5 .mat file: get it again.")


def test_memory_is_taken_only_for_numbers_that_can_follow(file):
    # A header that claims 512 MiB, and one that claims what zlib cannot hold in so few bytes.
    tracemalloc.start()
    try:
        for element in (
            array((2**29,), b"ab", claimed=2**29),
            array((2**33 // 8, 1), b"ab", 2**30),
        ):
            file.write_bytes(mat(packed(element)))
            with pytest.raises(LayoutError, match="its numbers have"):
                matlab.read_variable(str(file), "a")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_an_absent_variable_names_those_that_are_there(file):
    scipy.io.savemat(file, {"a": np.ones(2), "text": "words"})
    with pytest.raises(LayoutError, match=r"no array of numbers 'text'\. It holds a, text\."):
        matlab.read_variable(str(file), "text")
    with pytest.raises(FileNotFoundError):
        matlab.variables(str(file.with_name("b.mat")))
