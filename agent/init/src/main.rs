//! pid 1 of every sandbox: reaps, drains the app's pipes into the log, records exits, answers
//! agents. It outlives them, has no capability, and gets all it needs as open descriptors.
//!
//! Its memory is paid by every instance, so it uses no heap and nothing of std that sets itself up
//! before `main`. Signals are not forwarded: it could not send any (the app has another uid), and
//! agents signal the app's processes by pidfd.
//!
//! Descriptors: 3 and 4 the log files, 5 the exits, 6 the listening socket. Arguments: the limit in
//! bytes of a log file; and, where a first app is on its way, its incarnation. The reading ends of its pipes
//! are then 10 and 11.
#![no_main]

mod clients;
mod exits;
mod log;
mod pipes;
mod sys;

use drowse_init::protocol::{self, Answer, Request};

use clients::Clients;
use exits::Exits;
use log::Log;
use pipes::Pipes;

const LOGS: [i32; 2] = [3, 4];
const EXITS: i32 = 5;
const LISTENER: i32 = 6;
const PIPES: [i32; 2] = [10, 11];

/// How long part of a line may wait for its end before it is written as a line of its own.
const PARTIAL_LINE_MILLIS: i32 = 1000;

/// Everything that init knows. In the zeroed part of the program's image, so that pages of buffers
/// that are never used never exist.
struct State {
    log: Log,
    pipes: Pipes,
    exits: Exits,
    clients: Clients,
    incarnation: u32,
}

static STATE: sys::Single<State> = sys::Single::new(State {
    log: Log::new(),
    pipes: Pipes::new(),
    exits: Exits::new(),
    clients: Clients::new(),
    incarnation: 0,
});

#[unsafe(no_mangle)]
extern "C" fn main(count: i32, arguments: *const *const libc::c_char) -> i32 {
    let limit = sys::argument(count, arguments, 1).and_then(sys::parse).unwrap_or(log::DEFAULT_LIMIT);
    let first = sys::argument(count, arguments, 2).and_then(sys::parse);
    let state = STATE.take();
    match state.run(limit, first) {
        Ok(()) => 0,
        Err(errno) => errno,
    }
}

impl State {
    fn run(&mut self, limit: u64, first: Option<u64>) -> Result<(), i32> {
        sys::set_name(c"drowse-init");
        sys::set_undumpable();
        let signals = sys::child_signals()?;
        let epoll = sys::epoll()?;
        sys::watch(epoll, signals)?;
        sys::watch(epoll, LISTENER)?;
        self.log.open(LOGS, limit);
        self.exits.open(EXITS);
        if let Some(first) = first {
            self.pipes.add(epoll, PIPES, &mut self.log)?;
            self.incarnation = u32::try_from(first).unwrap_or(u32::MAX);
        }
        // A child that ended before signals were watched sent one that nobody will read.
        self.exits.reap();
        loop {
            let timeout = if self.pipes.has_partial_line() { PARTIAL_LINE_MILLIS } else { -1 };
            let mut ready = [sys::NO_EVENT; 16];
            let ready = sys::wait(epoll, &mut ready, timeout)?;
            if ready.is_empty() {
                self.pipes.write_partial_lines(&mut self.log);
            }
            for event in ready {
                let descriptor = sys::descriptor_of(event);
                if descriptor == signals {
                    sys::read_signals(signals);
                    self.exits.reap();
                } else if descriptor == LISTENER {
                    self.clients.accept(epoll, LISTENER);
                } else if self.clients.has(descriptor) {
                    if self.answer(epoll, descriptor) {
                        return Ok(());
                    }
                } else {
                    self.pipes.drain(descriptor, &mut self.log);
                }
            }
        }
    }

    /// Reads one request and answers it; whether init is to end.
    fn answer(&mut self, epoll: i32, client: i32) -> bool {
        let mut buffer = [0; 128];
        let mut passed = [-1; 2];
        let received = sys::receive(client, &mut buffer, &mut passed);
        let request = match received {
            Ok(Some(length)) => Request::from_bytes(&buffer[..length]),
            Ok(None) => return false,
            Err(_) => None,
        };
        let Some(request) = request else {
            passed.into_iter().for_each(sys::close);
            self.clients.forget(client);
            return false;
        };
        let status = match request.kind {
            protocol::ATTACH => match self.pipes.add(epoll, passed, &mut self.log) {
                Ok(()) => {
                    self.incarnation = u32::try_from(request.argument).unwrap_or(u32::MAX);
                    0
                }
                Err(errno) => errno,
            },
            protocol::WATCH => {
                self.exits.watch(i32::try_from(request.argument).unwrap_or(0));
                0
            }
            protocol::STATE | protocol::SHUTDOWN => 0,
            _ => protocol::UNSUPPORTED,
        };
        if request.kind != protocol::ATTACH {
            passed.into_iter().for_each(sys::close);
        }
        let answer = Answer {
            version: protocol::VERSION,
            status,
            incarnation: self.incarnation,
            open_pipes: self.pipes.open_count(),
            current_log: self.log.current(),
            exits: self.exits.recorded(),
            dropped: self.log.dropped(),
        };
        if !sys::send(client, &answer.to_bytes()) {
            self.clients.forget(client);
        }
        request.kind == protocol::SHUTDOWN
    }
}
