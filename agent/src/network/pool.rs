//! Which address is given next: pure, from the range and what is in use.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::config::AddressRange;

/// Every address of the range is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {size} addresses of {range} are in use; set a larger address_range")]
pub struct PoolExhausted {
    size: usize,
    range: AddressRange,
}

/// The addresses of a range that instances may have: all but those ending in .0 and .255, which some
/// software takes for a network or a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    range: AddressRange,
}

impl AddressPool {
    /// The pool of `range`.
    #[must_use]
    pub fn new(range: AddressRange) -> Self {
        Self { range }
    }

    /// An address that is not in `used`: the first one behind the highest used, so that an address
    /// is not given again right after it was freed; then the lowest free one.
    ///
    /// # Errors
    /// If none is free.
    pub fn allocate(&self, used: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, PoolExhausted> {
        let last = used.iter().rev().find(|&&address| self.contains(address));
        let behind = last.map_or_else(|| self.first(), |address| address.to_bits().saturating_add(1));
        let free = |address: &Ipv4Addr| Self::is_usable(*address) && !used.contains(address);
        let end = self.end();
        (behind..=end).chain(self.first()..=end).map(Ipv4Addr::from_bits).find(free).ok_or_else(|| PoolExhausted {
            size: used.iter().filter(|&&address| self.contains(address)).count(),
            range: self.range,
        })
    }

    /// Whether `address` belongs to the range.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first()..=self.end()).contains(&address.to_bits())
    }

    fn is_usable(address: Ipv4Addr) -> bool {
        !matches!(address.octets()[3], 0 | 255)
    }

    fn first(&self) -> u32 {
        self.range.base.to_bits()
    }

    fn end(&self) -> u32 {
        self.first() | (u32::MAX >> self.range.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(base: [u8; 4], prefix: u8) -> AddressPool {
        AddressPool::new(AddressRange { base: base.into(), prefix })
    }

    #[test]
    fn the_network_and_broadcast_like_addresses_are_skipped() {
        let pool = pool([10, 83, 0, 0], 16);
        assert_eq!(pool.allocate(&BTreeSet::new()), Ok(Ipv4Addr::new(10, 83, 0, 1)));
        let used = BTreeSet::from([Ipv4Addr::new(10, 83, 0, 254)]);
        assert_eq!(pool.allocate(&used), Ok(Ipv4Addr::new(10, 83, 1, 1)));
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let pool = pool([10, 83, 7, 240], 28);
        let mut used = BTreeSet::new();
        while let Ok(address) = pool.allocate(&used) {
            assert!(pool.contains(address));
            assert!(used.insert(address), "{address} twice");
        }
        assert_eq!(used.len(), 15, "all 16 but .255");
        let error = pool.allocate(&used).expect_err("full").to_string();
        assert!(error.contains("10.83.7.240/28") && error.contains("address_range"), "{error}");
    }

    #[test]
    fn a_freed_address_rests_until_the_range_was_gone_through() {
        let pool = pool([10, 83, 0, 0], 24);
        let used = BTreeSet::from([Ipv4Addr::new(10, 83, 0, 2)]);
        assert_eq!(pool.allocate(&used), Ok(Ipv4Addr::new(10, 83, 0, 3)));
        let end = BTreeSet::from([Ipv4Addr::new(10, 83, 0, 254)]);
        assert_eq!(pool.allocate(&end), Ok(Ipv4Addr::new(10, 83, 0, 1)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_given_is_free_and_usable(prefix in 20_u8..=28, used in proptest::collection::btree_set(0_u32..4096, 0..300)) {
            let pool = pool([10, 83, 16, 0], prefix);
            let used: BTreeSet<Ipv4Addr> = used.into_iter().map(|n| Ipv4Addr::from_bits(pool.first() + n)).collect();
            match pool.allocate(&used) {
                Ok(address) => {
                    proptest::prop_assert!(pool.contains(address) && !used.contains(&address));
                    proptest::prop_assert!(AddressPool::is_usable(address));
                }
                Err(_) => {
                    let free = (pool.first()..=pool.end()).map(Ipv4Addr::from_bits);
                    proptest::prop_assert!(free.filter(|a| AddressPool::is_usable(*a)).all(|a| used.contains(&a)));
                }
            }
        }
    }

    #[test]
    fn foreign_addresses_do_not_disturb() {
        let pool = pool([10, 83, 0, 0], 16);
        let used = BTreeSet::from([Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(10, 84, 0, 9)]);
        assert_eq!(pool.allocate(&used), Ok(Ipv4Addr::new(10, 83, 0, 1)));
    }
}
