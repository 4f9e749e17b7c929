"""Holds what the kernel gives to programs, and uses all of it at every visit: inotify, epoll, eventfd, timerfd,
a pair of Unix sockets, a listening one, files that are unlinked and open, shared memory of three kinds, pipes,
UDP, a lock on a file, and a child process."""

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import shared_memory

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Inotify:
    IN_CREATE, IN_NONBLOCK = 0x100, 0o4000

    def __init__(self, folder):
        self.folder, self.number = folder, 0
        self.descriptor = check(libc.inotify_init1(self.IN_NONBLOCK))
        check(libc.inotify_add_watch(self.descriptor, folder.encode(), self.IN_CREATE))

    def use(self, count):
        self.number += 1
        name = f"seen-{self.number}"
        path = os.path.join(self.folder, name)
        open(path, "w").close()
        os.unlink(path)
        assert name.encode() in os.read(self.descriptor, 4096)


class Timer:
    """Fires every 50 ms."""

    def __init__(self):
        self.descriptor = check(libc.timerfd_create(1, 0))
        self.set()

    def set(self):
        every = struct.pack("qqqq", 0, 50_000_000, 0, 50_000_000)
        check(libc.timerfd_settime(self.descriptor, 0, every, None))

    def use(self, count):
        # What it fired meanwhile, and then in its own time.
        struct.unpack("Q", os.read(self.descriptor, 8))
        fired = struct.unpack("Q", os.read(self.descriptor, 8))[0]
        assert 0 < fired < 1000, fired


class Event:
    def __init__(self):
        self.descriptor = os.eventfd(0)

    def use(self, count):
        os.eventfd_write(self.descriptor, count)
        assert os.eventfd_read(self.descriptor) == count


class Epoll:
    def __init__(self):
        self.epoll, (self.read, self.write) = select.epoll(), os.pipe()
        self.epoll.register(self.read, select.EPOLLIN)

    def use(self, count):
        assert self.epoll.poll(0) == []
        os.write(self.write, b"x")
        assert self.epoll.poll(1) == [(self.read, select.EPOLLIN)]
        assert os.read(self.read, 8) == b"x"


class Pair:
    """With bytes that wait in it from one visit to the next."""

    def __init__(self):
        self.one, self.other = socket.socketpair()
        self.one.sendall(b"0")

    def use(self, count):
        assert self.other.recv(64) == str(count - 1).encode()
        self.one.sendall(str(count).encode())


class Listener:
    def __init__(self):
        self.path = os.path.join(tempfile.mkdtemp(), "socket")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()

    def use(self, count):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            server, _ = self.socket.accept()
            client.sendall(b"hello")
            assert server.recv(8) == b"hello"
            server.close()


class Unlinked:
    def __init__(self, folder, size):
        self.file = tempfile.TemporaryFile(dir=folder)
        self.file.write(b"u" * size)
        self.file.write(struct.pack("Q", 0))
        self.file.flush()
        self.size = size

    def use(self, count):
        self.file.seek(self.size)
        assert struct.unpack("Q", self.file.read(8))[0] == count - 1
        self.file.seek(self.size)
        self.file.write(struct.pack("Q", count))
        self.file.flush()
        assert os.fstat(self.file.fileno()).st_nlink == 0


class Shared:
    """Memory that something else than this object's own bytes holds the count in."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.buffer[:8] = struct.pack("Q", 0)

    def use(self, count):
        assert struct.unpack("Q", self.buffer[:8])[0] == count - 1
        self.buffer[:8] = struct.pack("Q", count)


class Datagram:
    def __init__(self):
        self.one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.one.bind(("127.0.0.1", 0))
        self.other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def use(self, count):
        self.other.sendto(b"hello", self.one.getsockname())
        assert self.one.recv(8) == b"hello"


class Locked:
    def __init__(self):
        self.path = tempfile.mkstemp()[1]
        self.file = open(self.path, "r+")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def use(self, count):
        with open(self.path, "r+") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        raise AssertionError("the lock is gone")


class Child:
    """Counts over two pipes."""

    def __init__(self):
        (there, self.ask), (self.answer, back) = os.pipe(), os.pipe()
        if os.fork() == 0:
            count = 0
            while os.read(there, 1):
                count += 1
                os.write(back, struct.pack("Q", count))
            os._exit(0)

    def use(self, count):
        os.write(self.ask, b"x")
        assert struct.unpack("Q", os.read(self.answer, 8))[0] == count


segment = shared_memory.SharedMemory(create=True, size=4096)
memory_file = os.memfd_create("memory")
os.ftruncate(memory_file, 4096)
objects = {
    "child": Child(),
    "inotify": Inotify(os.getcwd()),
    "inotify-tmp": Inotify(tempfile.mkdtemp()),
    "timerfd": Timer(),
    "eventfd": Event(),
    "epoll": Epoll(),
    "pair": Pair(),
    "unix": Listener(),
    "unlinked": Unlinked(os.getcwd(), 3 << 20),
    "unlinked-tmp": Unlinked(None, 4096),
    "anonymous": Shared(mmap.mmap(-1, 4096)),
    "shm": Shared(segment.buf),
    "memfd": Shared(mmap.mmap(memory_file, 4096)),
    "udp": Datagram(),
    "flock": Locked(),
}
using = threading.Lock()
count = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        with using:
            count += 1
            failed = []
            for name, held in objects.items():
                try:
                    held.use(count)
                except Exception as error:
                    failed.append(f"{name}: {type(error).__name__} {error}")
        body = f"pid={os.getpid()} count={count} {'; '.join(failed)}".encode()
        self.send_response(500 if failed else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
