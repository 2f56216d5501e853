//! Ranges of keys, found by a key that lies in them.
//!
//! A search tree by where ranges start that knows of each subtree where its
//! ranges end at the latest, kept balanced by random priorities: adding, removing
//! and finding takes logarithmic time in the number of distinct ranges, plus what
//! is found.

use std::cmp::Ordering;
use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;

/// A range: its first key and the key before which it ends, `None` being the end
/// of the keyspace.
pub(super) type Bounds = (Bytes, Option<Bytes>);

/// Something for each of a set of ranges.
#[derive(Debug)]
pub(super) struct Intervals<T> {
    root: Link<T>,
    /// Nobody who chooses ranges can foresee priorities and unbalance the tree.
    random: RandomState,
    added: u64,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    bounds: Bounds,
    /// Where the last range of this subtree ends.
    last_end: Option<Bytes>,
    priority: u64,
    value: T,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self { root: None, random: RandomState::new(), added: 0 }
    }
}

/// Orders ends of ranges; none is after all others.
fn cmp_ends(one: Option<&Bytes>, other: Option<&Bytes>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) => one.cmp(other),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

fn cmp(one: &Bounds, other: &Bounds) -> Ordering {
    one.0.cmp(&other.0).then_with(|| cmp_ends(one.1.as_ref(), other.1.as_ref()))
}

impl<T> Node<T> {
    fn refresh(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| node.last_end.as_ref());
        let last = below.fold(
            self.bounds.1.as_ref(),
            |last, end| {
                if cmp_ends(last, end).is_lt() { end } else { last }
            },
        );
        self.last_end = last.cloned();
    }
}

fn insert<T>(link: &mut Link<T>, mut new: Box<Node<T>>) {
    match link {
        Some(node) if node.priority >= new.priority => {
            let side = if cmp(&new.bounds, &node.bounds).is_lt() { &mut node.left } else { &mut node.right };
            insert(side, new);
            node.refresh();
        }
        Some(_) | None => {
            (new.left, new.right) = split(link.take(), &new.bounds);
            new.refresh();
            *link = Some(new);
        }
    }
}

/// What lies before `bounds` and what lies after.
fn split<T>(link: Link<T>, bounds: &Bounds) -> (Link<T>, Link<T>) {
    let Some(mut node) = link else { return (None, None) };
    if cmp(&node.bounds, bounds).is_lt() {
        let (before, after) = split(node.right.take(), bounds);
        node.right = before;
        node.refresh();
        (Some(node), after)
    } else {
        let (before, after) = split(node.left.take(), bounds);
        node.left = after;
        node.refresh();
        (before, Some(node))
    }
}

fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    match (left, right) {
        (None, only) | (only, None) => only,
        (Some(mut left), Some(mut right)) => {
            if left.priority > right.priority {
                left.right = merge(left.right.take(), Some(right));
                left.refresh();
                Some(left)
            } else {
                right.left = merge(Some(left), right.left.take());
                right.refresh();
                Some(right)
            }
        }
    }
}

fn remove<T>(link: Link<T>, bounds: &Bounds) -> Link<T> {
    let mut node = link?;
    match cmp(bounds, &node.bounds) {
        Ordering::Equal => return merge(node.left.take(), node.right.take()),
        Ordering::Less => node.left = remove(node.left.take(), bounds),
        Ordering::Greater => node.right = remove(node.right.take(), bounds),
    }
    node.refresh();
    Some(node)
}

fn visit<'a, T>(node: Option<&'a Node<T>>, key: &[u8], found: &mut impl FnMut(&'a T)) {
    let Some(node) = node else { return };
    let ends_before = |end: Option<&Bytes>| end.is_some_and(|end| end.as_ref() <= key);
    if ends_before(node.last_end.as_ref()) {
        return;
    }
    visit(node.left.as_deref(), key, found);
    if node.bounds.0.as_ref() <= key {
        if !ends_before(node.bounds.1.as_ref()) {
            found(&node.value);
        }
        visit(node.right.as_deref(), key, found);
    }
}

fn visit_all<'a, T>(node: Option<&'a Node<T>>, found: &mut impl FnMut(&'a T)) {
    let Some(node) = node else { return };
    visit_all(node.left.as_deref(), found);
    found(&node.value);
    visit_all(node.right.as_deref(), found);
}

impl<T> Intervals<T> {
    /// What is kept for exactly this range.
    pub(super) fn get_mut(&mut self, bounds: &Bounds) -> Option<&mut T> {
        let mut link = &mut self.root;
        while let Some(node) = link {
            match cmp(bounds, &node.bounds) {
                Ordering::Equal => return Some(&mut node.value),
                Ordering::Less => link = &mut node.left,
                Ordering::Greater => link = &mut node.right,
            }
        }
        None
    }

    /// Keeps `value` for a range that has none.
    pub(super) fn insert(&mut self, bounds: Bounds, value: T) {
        self.added += 1;
        let priority = self.random.hash_one(self.added);
        let last_end = bounds.1.clone();
        let node = Node { bounds, last_end, priority, value, left: None, right: None };
        insert(&mut self.root, Box::new(node));
    }

    /// Forgets what is kept for exactly this range.
    pub(super) fn remove(&mut self, bounds: &Bounds) {
        self.root = remove(self.root.take(), bounds);
    }

    /// Gives what is kept for each range that `key` lies in.
    pub(super) fn containing<'a>(&'a self, key: &[u8], mut found: impl FnMut(&'a T)) {
        visit(self.root.as_deref(), key, &mut found);
    }

    /// Gives all that is kept.
    pub(super) fn all<'a>(&'a self, mut found: impl FnMut(&'a T)) {
        visit_all(self.root.as_deref(), &mut found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0_u8..4, 0..3).prop_map(Bytes::from)
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        (key(), proptest::option::of(key()))
    }

    fn depth<T>(node: Option<&Node<T>>) -> usize {
        node.map_or(0, |node| 1 + depth(node.left.as_deref()).max(depth(node.right.as_deref())))
    }

    proptest! {
        #[test]
        fn a_key_finds_the_ranges_that_contain_it(
            steps in proptest::collection::vec((any::<bool>(), bounds()), 0..60),
            wanted in proptest::collection::vec(key(), 8),
        ) {
            let mut intervals = Intervals::default();
            let mut kept = BTreeSet::new();
            for (add, range) in steps {
                if !add {
                    intervals.remove(&range);
                    kept.remove(&range);
                } else if kept.insert(range.clone()) {
                    intervals.insert(range.clone(), range);
                }
            }
            for range in &kept {
                prop_assert!(intervals.get_mut(range).is_some());
            }
            for key in wanted {
                let mut found = BTreeSet::new();
                intervals.containing(&key, |range| {
                    found.insert(range.clone());
                });
                let contains = |(start, end): &Bounds| *start <= key && end.as_ref().is_none_or(|end| key < *end);
                let expected: BTreeSet<_> = kept.iter().filter(|range| contains(range)).cloned().collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn ranges_added_in_order_make_a_shallow_tree() {
        let mut intervals = Intervals::default();
        for number in 0..10_000_u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            let end = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
            intervals.insert((start, Some(end)), number);
        }
        let depth = depth(intervals.root.as_deref());
        assert!(depth < 80, "{depth}");
        let mut found = Vec::new();
        intervals.containing(&7_777_u32.to_be_bytes(), |number| found.push(*number));
        assert_eq!(found, [7_777]);
    }
}
