//! The smallest part of a contradiction, for people to look at.
//!
//! Delta debugging (Zeller & Hildebrandt, TSE 2002), but nothing is taken out of the
//! history: a write that is gone would make every read of it a lie. Instead operations
//! are doubted. A doubted read says nothing, and a doubted write may take effect late or
//! never. That only allows more orders, so what is left undoubted is a contradiction
//! among true answers.

use super::wgl::{Found, Item, search};

/// States that one search visits.
const MAX_STATES: usize = 20_000;

/// Items up to where it got stuck, beyond which nothing is looked for.
const MAX_ITEMS: usize = 20_000;

/// The operations of the smallest contradiction among `items` that was found in bounded
/// time, with that many searches. `stuck` is where the search ended, and `pending` what it could not place there.
pub(super) fn shrink(items: &[Item], stuck: usize, pending: &[usize], searches: usize) -> Vec<usize> {
    let fallback = || {
        let mut named: Vec<usize> =
            pending.iter().filter_map(|item| items.get(*item)).map(|item| item.operation).collect();
        named.sort_unstable();
        named.dedup();
        named
    };
    let Some(end) = items.get(stuck).and_then(|item| item.ended) else { return fallback() };
    // What began later has no part in it, and what ended later may as well be unknown.
    let early: Vec<Item> = items.iter().filter(|item| item.begun <= end).cloned().collect();
    if early.len() > MAX_ITEMS || searches == 0 {
        return fallback();
    }
    let mut shrinker = Shrinker { items: &early, left: searches };
    let mut certain: Vec<usize> = (0..early.len())
        .filter(|item| early.get(*item).is_some_and(|item| item.ended <= Some(end)))
        .collect();
    certain.retain(|item| early.get(*item).is_some_and(|item| item.ended.is_some()));
    if !shrinker.contradicts(&certain) {
        return fallback();
    }
    let mut named: Vec<usize> = shrinker
        .minimize(certain)
        .iter()
        .filter_map(|item| early.get(*item))
        .map(|item| item.operation)
        .collect();
    named.sort_unstable();
    named.dedup();
    named
}

struct Shrinker<'a> {
    items: &'a [Item],
    /// Searches that are left.
    left: usize,
}

impl Shrinker<'_> {
    /// Whether these contradict each other while all others are doubted.
    fn contradicts(&mut self, certain: &[usize]) -> bool {
        self.left = self.left.saturating_sub(1);
        let mut believed = vec![false; self.items.len()];
        for item in certain {
            if let Some(slot) = believed.get_mut(*item) {
                *slot = true;
            }
        }
        let doubted = self.items.iter().zip(believed).filter_map(|(item, believed)| {
            if believed {
                Some(item.clone())
            } else {
                item.becomes.is_some().then(|| Item { ended: None, not: None, ..item.clone() })
            }
        });
        let doubted: Vec<Item> = doubted.collect();
        matches!(search(&doubted, MAX_STATES), Found::Contradiction { .. })
    }

    /// Doubts halves, then quarters and so on, as long as a contradiction is left.
    fn minimize(&mut self, mut certain: Vec<usize>) -> Vec<usize> {
        let mut parts = 2;
        while certain.len() > 1 && self.left > 0 {
            let size = certain.len().div_ceil(parts);
            let mut shrunk = false;
            let mut from = 0;
            while from < certain.len() && self.left > 0 {
                let rest: Vec<usize> =
                    certain.iter().take(from).chain(certain.iter().skip(from + size)).copied().collect();
                if self.contradicts(&rest) {
                    certain = rest;
                    shrunk = true;
                } else {
                    from += size;
                }
            }
            if size == 1 && !shrunk {
                break;
            }
            parts = if shrunk { parts } else { (parts * 2).min(certain.len()) };
        }
        certain
    }
}
