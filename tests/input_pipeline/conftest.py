"""A bucket in memory, for the tests of the input pipeline."""

import http.server
import threading
import urllib.parse
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """gs:// in memory."""

    protocol = ("gs", "gcs")
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

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


class Storage(http.server.BaseHTTPRequestHandler):
    """Serves the objects of `bucket` as Cloud Storage serves ranges of them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.server.bucket.asked.append(path)
        name = "/" + path.removeprefix("/storage/v1/b/").replace("/o/", "/", 1)
        content = Bucket.store[name].getvalue() if name in Bucket.store else None
        headers = {"Content-Length": "0"}
        if content is not None:
            first, _, last = (
                self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            )
            start = int(first) if first else len(content) - int(last)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            headers = {
                "Content-Length": str(stop - start),
                "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}",
            }
            content = content[start:stop]
        self.send_response(404 if content is None else 206)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def served_bucket(bucket, monkeypatch):
    """`bucket`, which ArrayRecord reads too, over HTTP; `asked` has the paths it asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    server.bucket, bucket.asked = bucket, []
    server.handle_error = lambda *_: None  # a reader that has enough hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield bucket
    server.shutdown()
    server.server_close()
