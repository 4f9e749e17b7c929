//! Who is connected: agents, one at a time, and now and then the next one already.

use crate::sys;

const CLIENTS: usize = 4;

/// Their descriptors (0: none).
pub struct Clients {
    connected: [i32; CLIENTS],
    next: usize,
}

impl Clients {
    pub const fn new() -> Self {
        Self { connected: [0; CLIENTS], next: 0 }
    }

    /// Takes a connection. Where there is no room the oldest is closed: its agent is stuck or dead.
    pub fn accept(&mut self, epoll: i32, listener: i32) {
        let Some(client) = sys::accept(listener) else { return };
        let free = self.connected.iter().position(|connected| *connected == 0);
        let at = free.unwrap_or(self.next);
        self.next = (at + 1) % CLIENTS;
        if self.connected[at] > 0 {
            sys::close(self.connected[at]);
        }
        self.connected[at] = client;
        if sys::watch(epoll, client).is_err() {
            self.forget(client);
        }
    }

    pub fn has(&self, client: i32) -> bool {
        client > 0 && self.connected.contains(&client)
    }

    pub fn forget(&mut self, client: i32) {
        for connected in &mut self.connected {
            if *connected == client {
                sys::close(client);
                *connected = 0;
            }
        }
    }
}
