//! What the clients of a run do, each for as long as they shall work.

use std::sync::Arc;
use std::time::Duration;

use super::locks;
use super::registers::{Memory, Registers};
use super::session::{Session, Shared};
use super::txns::{self, Books};
use super::wire::Wire;
use super::{Recorded, Weights};
use crate::dice::Dice;

/// All clients of a run, who share keys.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    registers: Registers,
    books: Books,
    weights: Weights,
    pause: Duration,
}

impl Crew {
    /// Clients that work on so many registers at a time, and pause for about `pause` after a call.
    pub fn new(shared: Arc<Shared>, registers: usize, weights: Weights, pause: Duration) -> Self {
        Self { shared, registers: Registers::new(registers), books: Books::new(), weights, pause }
    }

    /// The sum of all accounts, if there is a bank.
    pub fn bank_total(&self) -> Option<i64> {
        (self.weights.bank > 0).then_some(txns::BANK_TOTAL)
    }

    /// A client that reads and writes.
    pub async fn work(&self, dice: Dice, wire: impl Wire) -> Recorded {
        let mut session = Session::new(Arc::clone(&self.shared), dice, wire);
        let mut memory = Memory::default();
        let Weights { registers, seeds, lists, counters, bank } = self.weights;
        let most = usize::try_from(2 * self.pause.as_millis()).unwrap_or(usize::MAX).max(1);
        while session.shared.goes_on() {
            match choose(&mut session.dice, &[registers, seeds, lists, counters, bank]) {
                0 => self.registers.step(&mut session, &mut memory).await,
                1 => self.registers.seed_step(&mut session).await,
                2 => self.books.list_step(&mut session).await,
                3 => self.books.counter_step(&mut session).await,
                _ => self.books.bank_step(&mut session).await,
            }
            if !self.pause.is_zero() {
                let time = session.dice.millis(0, most);
                session.shared.pause(time).await;
            }
        }
        Recorded { operations: session.into_operations(), ..Recorded::default() }
    }

    /// A client that takes locks.
    pub async fn lock(&self, dice: Dice, wire: impl Wire) -> Recorded {
        let mut session = Session::new(Arc::clone(&self.shared), dice, wire);
        let locked = locks::work(&mut session).await;
        Recorded {
            operations: session.into_operations(),
            holdings: locked.holdings,
            broken: locked.broken,
            ..Recorded::default()
        }
    }
}

/// The place in `parts` on which the lot falls, in proportion to what stands there.
fn choose(dice: &mut Dice, parts: &[usize]) -> usize {
    let mut lot = dice.below(parts.iter().sum::<usize>().max(1));
    for (place, part) in parts.iter().enumerate() {
        if lot < *part {
            return place;
        }
        lot -= part;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_fall_in_proportion() {
        let mut dice = Dice::new(9);
        let mut counts = [0; 3];
        for _ in 0..4_000 {
            counts[choose(&mut dice, &[30, 0, 10])] += 1;
        }
        assert!((2_800..3_200).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
    }
}
