//! Which addresses of the range are in use, by instances and builds alike.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::network::{AddressPool, PoolExhausted};

/// The addresses in use. Shared by reference.
#[derive(Debug)]
pub struct Addresses {
    pool: AddressPool,
    used: Mutex<BTreeSet<Ipv4Addr>>,
}

impl Addresses {
    /// None of the pool is in use.
    #[must_use]
    pub fn new(pool: AddressPool) -> Self {
        Self { pool, used: Mutex::default() }
    }

    /// Takes a free one.
    ///
    /// # Errors
    /// If none is free.
    pub fn take(&self) -> Result<Ipv4Addr, PoolExhausted> {
        let mut used = self.lock();
        let address = self.pool.allocate(&used)?;
        used.insert(address);
        Ok(address)
    }

    /// Notes that `address` is in use, by what an earlier agent left.
    pub fn claim(&self, address: Ipv4Addr) {
        self.lock().insert(address);
    }

    /// Gives one back.
    pub fn free(&self, address: Ipv4Addr) {
        self.lock().remove(&address);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Ipv4Addr>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
