"""Flask under gunicorn: each worker counts for itself."""

import os
import threading

from flask import Flask

app = Flask(__name__)
counting = threading.Lock()
count = 0


@app.get("/")
def home():
    global count
    with counting:
        count += 1
        return f"pid={os.getpid()} count={count}"
