//! A second opinion that needs no revisions: is there an order in real time in which one
//! key, as a register, would have given all these answers?
//!
//! The search of Wing and Gong (JPDC 1993) with Lowe's cache of the states that were
//! visited (CCPE 2017). Two things keep it short. An operation that fits and can't change
//! anything is taken at once, for it is nowhere better. And an operation of unknown outcome
//! is taken only right before one that would not fit without it: everywhere else it could
//! as well come later, or never. The cache knows a set of operations by the exclusive or
//! of a random 128-bit number of each, not by its members, so that long histories fit.

#![expect(clippy::indexing_slicing, reason = "all places were handed out by the vectors that they index")]

use std::collections::{BTreeMap, HashSet};

use crate::dice::Dice;
use crate::history::Nanos;

/// A state of a register: a number for each value.
pub(super) type State = u32;

/// The state of an absent key.
pub(super) const ABSENT: State = 0;

/// A state that nothing leads to: what asks for it can't be true.
pub(super) const NEVER: State = State::MAX;

/// States that are visited of one key before the search gives up.
pub(super) const MAX_STATES: usize = 1_000_000;

/// What an operation says of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// When it began.
    pub(super) begun: Nanos,
    /// When it ended; `None` if it may take effect at any later time, or never.
    pub(super) ended: Option<Nanos>,
    /// The operation, as an index into the history's.
    pub(super) operation: usize,
    /// What the state must have been.
    pub(super) is: Option<State>,
    /// What it must not have been.
    pub(super) not: Option<State>,
    /// What it became, if it was changed.
    pub(super) becomes: Option<State>,
}

impl Item {
    fn fits(&self, state: State) -> bool {
        self.is.is_none_or(|is| is == state) && self.not != Some(state)
    }
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    Contradiction {
        /// The item at whose end the longest try got stuck.
        stuck: usize,
        /// The items that were pending there.
        pending: Vec<usize>,
    },
    /// The search was given up.
    TooMany,
}

/// Searches for an order of `items`, visiting at most `states` states.
pub(super) fn search(items: &[Item], states: usize) -> Found {
    Search::new(items).run(states)
}

/// One step of the search: what was taken and what can be taken next.
#[derive(Debug)]
struct Frame {
    /// The state before it.
    state: State,
    /// What `Search::without` was before it.
    without: Option<State>,
    /// What was taken.
    taken: Vec<usize>,
    /// What can come next and has not been tried, the best last.
    choices: Vec<usize>,
    /// Whether those of unknown outcome are among the choices already.
    widened: bool,
}

struct Search<'a> {
    items: &'a [Item],
    marks: Vec<u128>,
    /// Those of known outcome that are not taken, by beginning: a list in two arrays whose
    /// places are one more than the items', with 0 as its head and its end.
    next: Vec<usize>,
    previous: Vec<usize>,
    by_begun: Vec<usize>,
    taken: Vec<bool>,
    /// Those of unknown outcome by what they lead to, by beginning.
    unknown: BTreeMap<State, Vec<usize>>,
    /// The states that some item asks for.
    wanted: HashSet<State>,
    state: State,
    /// The state without the last one of unknown outcome, if nothing came after it.
    without: Option<State>,
    set: u128,
    left: usize,
    cache: HashSet<(u128, State, Option<State>)>,
    deepest: (usize, usize, Vec<usize>),
}

impl<'a> Search<'a> {
    fn new(items: &'a [Item]) -> Self {
        let mut dice = Dice::new(items.len() as u64);
        let mut by_begun: Vec<usize> = (0..items.len()).filter(|item| items[*item].ended.is_some()).collect();
        by_begun.sort_by_key(|item| (items[*item].begun, items[*item].ended));
        let left = by_begun.len();
        let mut optional: Vec<usize> = (0..items.len())
            .filter(|item| items[*item].ended.is_none() && items[*item].becomes.is_some())
            .collect();
        optional.sort_by_key(|item| items[*item].begun);
        let mut unknown: BTreeMap<State, Vec<usize>> = BTreeMap::new();
        for item in optional {
            unknown.entry(items[item].becomes.unwrap_or(ABSENT)).or_default().push(item);
        }
        let mut search = Self {
            items,
            marks: items.iter().map(|_| (u128::from(dice.next()) << 64) | u128::from(dice.next())).collect(),
            next: vec![0; items.len() + 1],
            previous: vec![0; items.len() + 1],
            by_begun,
            taken: vec![false; items.len()],
            unknown,
            wanted: items.iter().filter_map(|item| item.is).collect(),
            state: ABSENT,
            without: None,
            set: 0,
            left,
            cache: HashSet::new(),
            deepest: (usize::MAX, 0, Vec::new()),
        };
        let mut last = 0;
        for item in &search.by_begun {
            search.next[last] = item + 1;
            search.previous[item + 1] = last;
            last = item + 1;
        }
        search.next[last] = 0;
        search.previous[0] = last;
        search
    }

    fn run(mut self, states: usize) -> Found {
        let mut frames = vec![Frame {
            state: self.state,
            without: None,
            taken: Vec::new(),
            choices: Vec::new(),
            widened: false,
        }];
        if !self.enter(&mut frames[0]) {
            return self.contradiction();
        }
        loop {
            if self.left == 0 {
                return Found::Order;
            }
            if self.cache.len() > states {
                return Found::TooMany;
            }
            let Some(frame) = frames.last_mut() else { return self.contradiction() };
            let Some(choice) = frame.choices.pop() else {
                if frame.widened {
                    let frame = frames.pop().expect("it was the last one just now");
                    self.leave(&frame);
                } else {
                    frame.widened = true;
                    frame.choices = self.unknown_choices();
                }
                continue;
            };
            let mut frame = Frame {
                state: self.state,
                without: self.without,
                taken: vec![choice],
                choices: Vec::new(),
                widened: false,
            };
            self.without = self.items[choice].ended.is_none().then_some(self.state);
            self.take(choice);
            if self.enter(&mut frame) {
                frames.push(frame);
            } else {
                self.leave(&frame);
            }
        }
    }

    /// Takes all that fits and can't change anything, and looks what can come next. Says whether
    /// this place of the search is a new one.
    fn enter(&mut self, frame: &mut Frame) -> bool {
        loop {
            let pending = self.pending();
            let free = pending.iter().copied().find(|item| {
                let item = &self.items[*item];
                item.fits(self.state) && item.becomes.is_none_or(|becomes| item.is == Some(becomes))
            });
            if let Some(item) = free {
                self.take(item);
                self.without = None;
                frame.taken.push(item);
                continue;
            }
            if self.left < self.deepest.0 {
                let stuck =
                    pending.iter().copied().min_by_key(|item| self.items[*item].ended).unwrap_or_default();
                self.deepest = (self.left, stuck, pending.clone());
            }
            frame.choices = pending;
            frame.choices.retain(|item| self.may_follow(*item));
            // What ends first is tried first.
            frame.choices.sort_by_key(|item| std::cmp::Reverse(self.items[*item].ended));
            return self.cache.insert((self.set, self.state, self.without));
        }
    }

    /// Whether an item fits here, and after one of unknown outcome only thanks to that.
    fn may_follow(&self, item: usize) -> bool {
        let item = &self.items[item];
        item.fits(self.state) && self.without.is_none_or(|without| !item.fits(without))
    }

    fn take(&mut self, item: usize) {
        self.taken[item] = true;
        self.set ^= self.marks[item];
        if let Some(becomes) = self.items[item].becomes {
            self.state = becomes;
        }
        if self.items[item].ended.is_some() {
            let (next, previous) = (self.next[item + 1], self.previous[item + 1]);
            self.next[previous] = next;
            self.previous[next] = previous;
            self.left -= 1;
        }
    }

    fn leave(&mut self, frame: &Frame) {
        for item in frame.taken.iter().rev().copied() {
            self.taken[item] = false;
            self.set ^= self.marks[item];
            if self.items[item].ended.is_some() {
                let (next, previous) = (self.next[item + 1], self.previous[item + 1]);
                self.next[previous] = item + 1;
                self.previous[next] = item + 1;
                self.left += 1;
            }
        }
        self.state = frame.state;
        self.without = frame.without;
    }

    /// Those of known outcome that may come next: nothing that is left ended before they
    /// began.
    fn pending(&self) -> Vec<usize> {
        let mut pending = Vec::new();
        let mut first_end = Nanos::MAX;
        let mut place = self.next[0];
        while place != 0 {
            let item = &self.items[place - 1];
            if item.begun > first_end {
                break;
            }
            first_end = first_end.min(item.ended.unwrap_or(Nanos::MAX));
            pending.push(place - 1);
            place = self.next[place];
        }
        pending
    }

    /// Those of unknown outcome that may come next and lead to where something that is
    /// pending would fit.
    fn unknown_choices(&self) -> Vec<usize> {
        if self.unknown.is_empty() {
            return Vec::new();
        }
        let pending = self.pending();
        let first_end = pending.iter().filter_map(|item| self.items[*item].ended).min().unwrap_or(Nanos::MAX);
        let mut choices = Vec::new();
        let mut goals: Vec<State> = pending.iter().filter_map(|item| self.items[*item].is).collect();
        let mut seen: HashSet<State> = HashSet::new();
        while let Some(goal) = goals.pop() {
            if goal == self.state || !seen.insert(goal) {
                continue;
            }
            let mut guards = HashSet::new();
            for item in self.unknown.get(&goal).into_iter().flatten().copied() {
                if self.items[item].begun > first_end {
                    break;
                }
                // Of those that do the same, the first one is as good as any.
                if self.taken[item] || !guards.insert(self.items[item].is) {
                    continue;
                }
                if self.may_follow(item) {
                    choices.push(item);
                }
                goals.extend(self.items[item].is);
            }
        }
        let elsewhere = |item: &usize| self.items[*item].not == Some(self.state);
        if pending.iter().any(elsewhere) {
            self.anywhere_else(first_end, &seen, &mut choices);
        }
        choices
    }

    /// Those of unknown outcome that lead anywhere but here, one of each sort.
    fn anywhere_else(&self, first_end: Nanos, tried: &HashSet<State>, choices: &mut Vec<usize>) {
        let mut sorts = HashSet::new();
        for (state, items) in &self.unknown {
            if *state == self.state || tried.contains(state) {
                continue;
            }
            let mut guards = HashSet::new();
            for item in items.iter().copied().take_while(|item| self.items[*item].begun <= first_end) {
                let guard = self.items[item].is;
                if self.taken[item] || !self.may_follow(item) || !guards.insert(guard) {
                    continue;
                }
                // States that nobody asks for are all alike, but for how long they are of use.
                let sort = (guard, self.wanted.contains(state).then_some(*state), *state == ABSENT);
                if sorts.insert(sort) {
                    choices.push(item);
                }
            }
        }
    }

    fn contradiction(self) -> Found {
        Found::Contradiction { stuck: self.deepest.1, pending: self.deepest.2 }
    }
}
