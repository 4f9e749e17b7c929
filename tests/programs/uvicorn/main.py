"""FastAPI under uvicorn, by the platform's own start command. What is no coroutine runs in a pool of threads."""

import os
import threading

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
counting = threading.Lock()
count = 0


@app.get("/", response_class=PlainTextResponse)
def home():
    global count
    with counting:
        count += 1
        return f"pid={os.getpid()} count={count} threads={threading.active_count()}"
