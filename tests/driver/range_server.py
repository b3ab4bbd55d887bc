"""A web server on 127.0.0.1 that answers Range requests from memory and counts them.

It also takes PUT, enough of an object store for /vsis3/."""
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """files: {path: bytes}. requests: list of (method, path, first byte or None, last byte or None).
    writable: whether PUT is allowed."""

    def __init__(self, files, writable=False):
        self.files, self.requests, self.writable = files, [], writable
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def do_PUT(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(("PUT", self.path, None, None))
                if outer.writable:
                    outer.files[self.path] = body
                self.reply(200 if outer.writable else 403, b"", True)

            def do_DELETE(self):
                outer.requests.append(("DELETE", self.path, None, None))
                self.reply(204 if outer.files.pop(self.path, None) is not None else 404, b"", False)

            def answer(self, with_body):
                data = outer.files.get(self.path)
                match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                first = int(match[1]) if match else None
                last = int(match[2]) if match and match[2] else None
                outer.requests.append((self.command, self.path, first, last))
                if data is None:
                    return self.reply(404, b"", with_body)
                if match is None:
                    return self.reply(200, data, with_body)
                if first >= len(data):
                    return self.reply(416, b"", with_body, {"Content-Range": "bytes */%d" % len(data)})
                last = len(data) - 1 if last is None else min(last, len(data) - 1)
                self.reply(206, data[first:last + 1], with_body,
                           {"Content-Range": "bytes %d-%d/%d" % (first, last, len(data))})

            def reply(self, status, body, with_body, headers={}):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Accept-Ranges", "bytes")
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
