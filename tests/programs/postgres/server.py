"""A pool of connections to a database outside, by DATABASE_URL. Those that broke are replaced by the pool."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from psycopg_pool import ConnectionPool

pool = ConnectionPool(
    os.environ["DATABASE_URL"], min_size=3, max_size=5, check=ConnectionPool.check_connection, open=True
)
pool.wait(30)
counting = threading.Lock()
count = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        with pool.connection() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz)")
            connection.execute("INSERT INTO visits VALUES (now())")
            rows = connection.execute("SELECT COUNT(*) FROM visits").fetchone()[0]
        with counting:
            count += 1
            body = f"pid={os.getpid()} count={count} rows={rows}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
