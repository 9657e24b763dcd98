# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face hub on 127.0.0.1, with the manners of the real one and, on request, the bad manners of any other."""
import hashlib
import json
import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Files of one repository. `cdn`: another Hub that large files are redirected to, as the real one does.

    `behave[name]` is called with the handler, the file's bytes and the number of earlier requests for it, before anything is
    sent; if it returns True, that was the answer. The name "api" stands for the listing.
    """

    def __init__(self, files=None, cdn=None, commit=COMMIT, certificate=None, address=("127.0.0.1", 0)):
        self.files, self.cdn, self.commit = dict(files or {}), cdn, commit
        self.revisions = {"main"}
        self.requests, self.behave, self.change_listing = [], {}, lambda listing: listing
        self.lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

            def reply(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), str(value))
                if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                return True

            def drop(self):
                self.close_connection = True
                self.wfile.flush()
                self.connection.close()
                return True

        self.server = ThreadingHTTPServer(address, Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # who hangs up in the middle is what many tests are about
        if certificate:  # a file with its key
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://{address[0]}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def is_large(self, name):
        return name.endswith((".safetensors", ".bin"))

    def tag(self, name):
        data = self.files[name]
        return hashlib.sha256(data).hexdigest() if self.is_large(name) else git_sha1(data)

    def siblings(self):
        for name, data in self.files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if self.is_large(name):
                pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\n" % self.tag(name).encode()
                entry |= {"blobId": git_sha1(pointer), "lfs": {"sha256": self.tag(name), "size": len(data), "pointerSize": 134}}
            yield entry

    def tree(self):
        for entry in self.siblings():
            large = entry.get("lfs")
            yield {"type": "file", "path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"]} | (
                {"lfs": {"oid": large["sha256"], "size": large["size"], "pointerSize": 134}} if large else {})

    def asked(self, name):
        """Requests for a file, as (method, headers)."""
        return [(method, headers) for method, path, headers in self.requests if path.split("?")[0].endswith("/" + name)]

    def answer(self, handler):
        with self.lock:
            self.requests.append((handler.command, handler.path, dict(handler.headers)))
        path = urllib.parse.urlsplit(handler.path).path
        parts = [urllib.parse.unquote(p) for p in path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        name = "api" if is_api else "/".join(parts[4:] if parts[2:3] == ["resolve"] else parts)
        with self.lock:
            earlier = sum(1 for _, p, _ in self.requests[:-1] if p.split("?")[0] == path)
        if name in self.behave and self.behave[name](handler, self.files.get(name, b""), earlier):
            return
        if is_api and parts[4:5] == ["tree"]:
            handler.reply(200, json.dumps(list(self.tree())).encode())
        elif is_api and len(parts) == 6 and parts[4] == "revision" and parts[5] in self.revisions | {self.commit}:
            listing = {"id": "owner/name", "sha": self.commit, "siblings": list(self.siblings())}
            handler.reply(200, json.dumps(self.change_listing(listing)).encode())
        elif name not in self.files:
            handler.reply(404, b"not here")
        elif self.cdn is not None and self.is_large(name):
            self.cdn.files["blob/" + name] = self.files[name]
            handler.reply(302, Location=f"{self.cdn.url}/blob/{name}?signature=secret", X_Repo_Commit=self.commit,
                          X_Linked_Etag=f'"{self.tag(name)}"', X_Linked_Size=len(self.files[name]))
        else:
            self.send(handler, name)

    def send(self, handler, name):
        data = self.files[name]
        headers = {"ETag": f'"{self.tag(name)}"', "X_Repo_Commit": self.commit, "Accept_Ranges": "bytes"}
        first = handler.headers.get("Range")
        if first is None:
            return handler.reply(200, data, **headers)
        begin = int(first.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(data):
            return handler.reply(416, Content_Range=f"bytes */{len(data)}")
        return handler.reply(206, data[begin:], Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}", **headers)
