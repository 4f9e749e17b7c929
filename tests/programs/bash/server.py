"""Has a loop of bash count for it, over two pipes."""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

counting = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with counting:
            print("next", flush=True)
            count = sys.stdin.readline().strip()
        good = os.environ.get("GREETING") == "from .profile"
        body = f"pid={os.getpid()} count={count}".encode()
        self.send_response(200 if good else 500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
