"""Two hundred threads that wait, each of which counts when it is told to."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

THREADS = 200
go = threading.Barrier(THREADS + 1)
done = threading.Barrier(THREADS + 1)
counts = [0] * THREADS


def work(number):
    while True:
        go.wait()
        counts[number] += 1
        done.wait()


for number in range(THREADS):
    threading.Thread(target=work, args=(number,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        go.wait()
        done.wait()
        good = len(set(counts)) == 1
        body = f"pid={os.getpid()} count={counts[0]}".encode()
        self.send_response(200 if good else 500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
