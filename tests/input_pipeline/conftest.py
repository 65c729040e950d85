"""A bucket in memory, for the tests of the input pipeline."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest


class Bucket(MemoryFileSystem):
    """gs:// in memory."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.split("://")[-1].strip("/")


@pytest.fixture
def bucket():
    """The empty file system that gs:// means during a test."""
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    return fsspec.filesystem("gcs")
