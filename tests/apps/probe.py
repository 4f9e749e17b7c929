"""An app for tests, of the standard library alone: it does what it is asked to, however bad."""

import base64
import hashlib
import json
import os
import signal
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = os.environ.get("PROBE_VERSION") or open("version").read().strip()
HOST = os.environ.get("PROBE_HOST", "0.0.0.0")
kept = []
count = 0
marking = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: the second would wait for the visitor's delayed acknowledgement.
    disable_nagle_algorithm = True

    def answer(self, text, status=200):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.act()

    def do_GET(self):
        self.act()

    def act(self):
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        action = getattr(self, "on_" + address.path.strip("/").replace("-", "_"), None)
        if address.path == "/":
            self.answer(f"{VERSION} {os.getpid()}")
        elif action:
            action(query)
        else:
            self.answer("no such path", 404)

    def on_upload(self, query):
        self.answer(hashlib.sha256(self.body).hexdigest())

    # What harms the app is asked for by POST: routers may repeat a GET whose connection broke.
    def on_exit(self, query):
        os._exit(int(query["code"]))

    def on_signal(self, query):
        # Pid 1 of the sandbox is not this process: the default action of every signal holds.
        os.kill(os.getpid(), int(query["number"]))
        time.sleep(5)
        self.answer("still here", 500)

    def on_allocate(self, query):
        for _ in range(int(query["mib"])):
            block = bytearray(1 << 20)
            block[::4096] = b"x" * len(block[::4096])
            kept.append(block)
        self.answer("allocated")

    def on_python(self, query):
        """Runs the body, which finds `query`, `kept` and `end`, the time until which it should go on, and sets `result`."""
        scope = {"query": query, "kept": kept, "end": time.monotonic() + float(query.get("seconds", "0"))}
        try:
            exec(self.body.decode(), scope)
            self.answer(str(scope["result"]))
        except BaseException as error:
            self.answer(f"{type(error).__name__}: {error}", 500)

    def on_env(self, query):
        self.answer(os.environ.get(query["name"], ""))

    def on_headers(self, query):
        self.answer(json.dumps({name.lower(): value for name, value in self.headers.items()}))

    def on_slow(self, query):
        time.sleep(float(query["seconds"]))
        self.answer(f"{VERSION} {os.getpid()}")

    def on_count(self, query):
        """Counts in memory, as long as this process lives."""
        global count
        count += 1
        self.answer(str(count))

    def on_mark(self, query):
        """Writes down that it was asked, before it answers."""
        with marking, open("marks", "a") as file:
            file.write(query["id"] + "\n")
        self.answer(query["id"])

    def on_tell(self, query):
        """Tells its log that it was asked, before it answers: that can be read by whoever follows it."""
        print("carried out", query["id"], flush=True)
        self.answer(query["id"])

    def on_lease(self, query):
        """Says the body to the platform, and answers what it says."""
        import socket
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(20)
            door.connect("/run/drowse/lease")
            door.sendall(self.body + b"\n")
            door.shutdown(socket.SHUT_WR)
            said = b""
            while more := door.recv(4096):
                said += more
        self.answer(said.decode())

    def on_log(self, query):
        for number in range(int(query.get("lines", "1"))):
            print(query["text"], number, flush=True)
        print("to stderr", query["text"], file=sys.stderr, flush=True)
        self.answer("logged")

    def on_write(self, query):
        with open(query["file"], "a") as file:
            file.write(query["text"])
        self.answer("written")

    def on_read(self, query):
        try:
            with open(query["file"]) as file:
                self.answer(file.read())
        except OSError as error:
            self.answer(str(error), 404)

    def on_connect(self, query):
        import socket
        try:
            socket.create_connection((query["host"], int(query["port"])), timeout=2).close()
            self.answer("connected")
        except OSError as error:
            self.answer(type(error).__name__)

    def on_status(self, query):
        with open("/proc/self/status") as file:
            self.answer(file.read())

    def on_stream(self, query):
        """Chunks of `size` bytes, one every `every` seconds, `chunks` times."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        size = int(query.get("size", "1024"))
        for number in range(int(query["chunks"])):
            chunk = str(number).rjust(8).encode().ljust(size, b".")
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
            time.sleep(float(query.get("every", "0")))
        self.wfile.write(b"0\r\n\r\n")

    def on_websocket(self, query):
        """Echoes text messages of up to 64 KiB (RFC 6455, no fragments)."""
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", accept)
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            kind, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = struct.unpack(">H", self.rfile.read(2))[0]
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            size = bytes([length]) if length < 126 else b"\x7e" + struct.pack(">H", length)
            self.wfile.write(bytes([128 | kind]) + size + text)
            self.wfile.flush()
            if kind == 8:
                return

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    # Connections that come all at once wait; the standard library's 5 would refuse them.
    request_queue_size = 512


def end(*_):
    print("told to end", flush=True)
    threading.Thread(target=server.shutdown).start()


def linger(*_):
    print("told to end, and stays", flush=True)


if delay := os.environ.get("PROBE_DELAY"):
    time.sleep(float(delay))
if code := os.environ.get("PROBE_EXIT"):
    print("leaving at once", file=sys.stderr, flush=True)
    sys.exit(int(code))
server = Server((HOST, int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, linger if os.environ.get("PROBE_LINGER") else end)
print("listening", flush=True)
server.serve_forever()
