#!/usr/bin/env python3
"""ClickHouse's HTTP interface, as far as Tapekeeper uses it, over the engine in this process (chdb-core).

    front.py PORT DIRECTORY

It is the engine of the server, on disk, so it can be killed and restarted. There are no users and no TLS, and one request
runs at a time. It is for tests only.
"""

import os
import re
import struct
import sys
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pyarrow
from chdb import session

# Parameters of the interface; every other one is a setting.
INTERFACE = {"query", "default_format", "database", "decompress", "compress", "user", "password", "query_id"}
# Settings are written behind these: other statements carry their own.
TAKES_SETTINGS = re.compile(r"\s*(SELECT|WITH|INSERT)\b", re.IGNORECASE)
INSERT_OF_BODY = re.compile(r"^(\s*INSERT\s.*)\sFORMAT\s+(\w+)\s*$", re.IGNORECASE | re.DOTALL)

engine = None
one_at_a_time = threading.Lock()


def decompressed(body):
    """Blocks: 16 bytes of checksum, method 0x82 (LZ4), size with these 9 bytes, size of the data, data."""
    parts, at = [], 0
    while at < len(body):
        method, size, raw = struct.unpack_from("<BII", body, at + 16)
        if method != 0x82:
            raise ValueError(f"compression method {method:#x}")
        block = body[at + 25 : at + 16 + size]
        parts.append(pyarrow.decompress(block, decompressed_size=raw, codec="lz4_raw", asbytes=True))
        at += 16 + size
    return b"".join(parts)


def run(sql, parameters, body):
    """Runs a statement; returns the bytes of its answer."""
    settings = [(name, value) for name, value in parameters.items() if name not in INTERFACE]
    written = ", ".join("{}='{}'".format(name, value.replace("'", "\\'")) for name, value in settings)
    written = f" SETTINGS {written}" if written and TAKES_SETTINGS.match(sql) else ""
    answer_format = parameters.get("default_format", "TabSeparated")
    insert = INSERT_OF_BODY.match(sql)
    with one_at_a_time:
        if "database" in parameters:
            engine.query(f"USE `{parameters['database']}`")
        if not insert:
            return engine.query(sql + written, answer_format).bytes()
        # A body in the statement would end at the first blank line.
        with tempfile.NamedTemporaryFile() as rows:
            rows.write(body)
            rows.flush()
            engine.query(f"{insert[1]} FROM INFILE '{rows.name}'{written} FORMAT {insert[2]}")
            return b""


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer goes out at once, not after the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        if urlsplit(self.path).path == "/ping":
            self.answer(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self):
        try:
            body = self.body()
        except (ConnectionError, ValueError):
            # The client disconnected before the end of its request: the server ignores the request.
            self.close_connection = True
            return
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if parameters.get("decompress") == "1":
            body = decompressed(body)
        sql = parameters.get("query", "")
        if not INSERT_OF_BODY.match(sql):
            sql, body = "\n".join(filter(None, [sql, body.decode()])), b""
        try:
            self.answer(200, run(sql, parameters, body))
        except Exception as failure:  # the engine's own, with its code
            text = str(failure)
            code = re.match(r"Code: (\d+)", text)
            self.answer(500, text.encode() + b"\n", code[1] if code else "1001")

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.exactly(length)
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.exactly(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def exactly(self, length):
        data = self.rfile.read(length)
        if len(data) != length:
            raise ConnectionError("cut")
        return data

    def answer(self, status, body, code=None):
        self.send_response(status)
        self.send_header("X-ClickHouse-Query-Id", str(uuid.uuid4()))
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port, directory = int(sys.argv[1]), sys.argv[2]
    engine = session.Session(os.path.join(directory, "data"))
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", port), Front).serve_forever()
