//! Apps that take all they can get: what they do, for the tests that contain it and the benchmark that
//! measures what the neighbours notice.
//!
//! Each is a text of Python that the probe runs (`POST /python`). It goes on until the time that it is
//! given, at least once, and tells how the kernel put the end; with `keep` it leaves what it has taken.

use anyhow::Result;

use crate::http::Visitor;

/// One that floods something.
#[derive(Debug, Clone, Copy)]
pub struct Adversary {
    /// What it floods.
    pub name: &'static str,
    code: &'static str,
}

/// As many processes as it can have, each of which makes more.
pub const FORKS: Adversary = Adversary {
    name: "fork bomb",
    code: r#"
import os, signal, subprocess, sys, time
bomb = "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(.02)"
first = subprocess.Popen([sys.executable, "-c", bomb], start_new_session=True)
refused = None
while refused is None or time.monotonic() < end:
    try:
        one = os.fork()
        if one == 0:
            os._exit(0)
        os.waitpid(one, 0)
    except OSError as error:
        refused = str(error)
        time.sleep(.05)
if "keep" not in query:
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
result = refused
"#,
};

/// All the processors.
pub const CPU: Adversary = Adversary {
    name: "CPU",
    code: r#"
import subprocess, sys, time
all = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
time.sleep(max(0, end - time.monotonic()))
for one in all:
    one.kill()
    one.wait()
result = "ended"
"#,
};

/// More memory than it has.
pub const MEMORY: Adversary = Adversary {
    name: "memory",
    code: r#"
held = []
while True:
    held.append(bytearray(b"x") * (4 << 20))
"#,
};

/// A file system in memory.
pub const TMPFS: Adversary = Adversary {
    name: "tmpfs",
    code: r#"
import os, time
while True:
    try:
        with open("/dev/shm/flood", "wb", 0) as file:
            while True:
                file.write(b"x" * (1 << 20))
    except OSError as error:
        result = str(error)
    os.unlink("/dev/shm/flood")
    if time.monotonic() >= end:
        break
"#,
};

/// The disk.
pub const DISK: Adversary = Adversary {
    name: "disk",
    code: r#"
import os, time
data = os.urandom(1 << 20)
while True:
    try:
        with open("/app/flood", "ab", 0) as file:
            while True:
                file.write(data)
    except OSError as error:
        result = str(error)
    if "keep" not in query:
        os.truncate("/app/flood", 0)
    if time.monotonic() >= end:
        break
"#,
};

/// Files without anything in them.
pub const FILES: Adversary = Adversary {
    name: "inodes",
    code: r#"
import itertools, os, shutil, time
open("/app/flood", "ab").close()
while True:
    os.makedirs("/app/many", exist_ok=True)
    try:
        for number in itertools.count():
            os.close(os.open(f"/app/many/{number}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        result = str(error)
    if "keep" not in query:
        shutil.rmtree("/app/many")
    if time.monotonic() >= end:
        break
"#,
};

/// Open files.
pub const DESCRIPTORS: Adversary = Adversary {
    name: "descriptors",
    code: r#"
import os, time
while True:
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        result = f"{len(held)}: {error}"
    for one in held:
        os.close(one)
    if time.monotonic() >= end:
        break
"#,
};

/// Lines that nobody reads: 20 MB each time.
pub const LOG: Adversary = Adversary {
    name: "log",
    code: r#"
import sys, time
while True:
    for _ in range(100):
        sys.stdout.write(("x" * 199 + "\n") * 1000)
    sys.stdout.flush()
    if time.monotonic() >= end:
        break
result = "written"
"#,
};

/// Connections to somebody who keeps them (`host` and `port`).
pub const CONNECTIONS: Adversary = Adversary {
    name: "connections out",
    code: r#"
import socket, time
while True:
    try:
        while True:
            one = socket.socket()
            one.settimeout(10)
            one.connect((query["host"], int(query["port"])))
            kept.append(one)
    except OSError as error:
        result = f"{len(kept)}: {error}"
    if "keep" not in query:
        while kept:
            kept.pop().close()
    if time.monotonic() >= end:
        break
"#,
};

impl Adversary {
    /// Has the probe `app` do it, with `query` as further parameters, and returns what it tells.
    ///
    /// # Errors
    /// When no whole answer comes: of one that is killed for it, none does.
    pub async fn attack(self, visitor: &Visitor, app: &str, query: &str) -> Result<String> {
        visitor.post(app, &format!("/python?{query}"), self.code).await?.ok()
    }
}
