//! Names of keys that are used by many clients for a while, and then never again.
//!
//! A checker's work grows much faster than the history of one key, so a key is given up
//! when it has had its share of calls.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dice::Dice;

/// A number of slots, each of which is one key after another.
#[derive(Debug)]
pub(super) struct Slots {
    prefix: &'static str,
    share: u64,
    used: Vec<AtomicU64>,
}

impl Slots {
    /// `count` slots below `prefix`, whose keys last for `share` calls each.
    pub(super) fn new(prefix: &'static str, count: usize, share: u64) -> Self {
        Self { prefix, share, used: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Any slot's number.
    pub(super) fn any(&self, dice: &mut Dice) -> usize {
        dice.below(self.used.len())
    }

    /// The key that a slot is now.
    pub(super) fn key(&self, slot: usize) -> String {
        let used = self.used.get(slot).map_or(0, |used| used.load(Ordering::Relaxed));
        format!("{}{slot}/{}", self.prefix, used / self.share)
    }

    /// Counts a call to a slot, and gives the key that it is.
    pub(super) fn take(&self, slot: usize) -> String {
        let used = self.used.get(slot).map_or(0, |used| used.fetch_add(1, Ordering::Relaxed));
        format!("{}{slot}/{}", self.prefix, used / self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_given_up_after_its_share() {
        let slots = Slots::new("reg/", 2, 3);
        let keys: Vec<_> = (0..7).map(|_| slots.take(1)).collect();
        assert_eq!(keys, ["reg/1/0", "reg/1/0", "reg/1/0", "reg/1/1", "reg/1/1", "reg/1/1", "reg/1/2"]);
        assert_eq!((slots.key(0), slots.key(1)), ("reg/0/0".to_owned(), "reg/1/2".to_owned()));
        assert!((0..20).all(|seed| slots.any(&mut Dice::new(seed)) < 2));
    }
}
