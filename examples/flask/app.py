"""A guest book: a page with a form, and a stream that shows new entries as they are written.

Entries live in a file under the app's folder. It survives a restart of the app, and is gone with the
next deploy, which starts from the image again: what must stay belongs into a database.
"""

import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path

from flask import Flask, Response, redirect, render_template, request, url_for

BOOK = Path(os.environ.get("GUESTBOOK", "guestbook.jsonl"))
STARTED = datetime.now(timezone.utc)

app = Flask(__name__)


def entries():
    """The newest twenty entries, newest first."""
    if not BOOK.exists():
        return []
    return [json.loads(line) for line in BOOK.read_text().splitlines()[-20:]][::-1]


@app.get("/")
def page():
    greeting = os.environ.get("GREETING", "Hello from Flask")
    return render_template("index.html", greeting=greeting, entries=entries(), started=STARTED, pid=os.getpid())


@app.post("/sign")
def sign():
    text = request.form.get("text", "").strip()[:200]
    if text:
        line = json.dumps({"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "text": text})
        # One write in append mode is atomic, so that both workers may write at once.
        with BOOK.open("a") as book:
            book.write(line + "\n")
    return redirect(url_for("page"), code=303)


@app.get("/healthz")
def healthz():
    return {"ok": True}


@app.get("/ticks")
def ticks():
    """Server-sent events: as many ticks as asked for, one every `every` seconds."""
    count = min(request.args.get("count", default=5, type=int), 3600)
    every = max(request.args.get("every", default=1.0, type=float), 0.01)

    def stream():
        for number in range(count):
            yield f"event: tick\ndata: {number}\n\n"
            time.sleep(every)

    return Response(stream(), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})
