//! A graph of dependencies, its strongly connected parts and its smallest cycles.
//!
//! Knows nothing of transactions but that nodes depend on each other in several ways.

#![expect(clippy::indexing_slicing, reason = "nodes are places of the vectors that they index")]

use std::collections::{HashMap, VecDeque};

/// How many cycles are looked for in one part, to find the smallest.
const MAX_TRIES: usize = 500;

/// How many nodes are visited for that, about: a broken history may be one large part.
const MAX_STEPS: usize = 4_000_000;

/// In which way one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Why {
    /// It wrote the version before the other's.
    WriteWrite,
    /// The other one read what it wrote.
    WriteRead,
    /// It read the version that the other one replaced.
    ReadWrite,
    /// It had ended when the other one began.
    RealTime,
}

/// A set of ways, and whether the one that closes the cycle must be a read-write one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Which ways the cycle may go.
    pub(super) along: fn(Why) -> bool,
    /// Whether there is one more edge in it, of the kind read-write.
    pub(super) closed_by_read_write: bool,
}

impl Shape {
    /// Whether such an edge can be in a cycle of the shape.
    fn has(self, why: Why) -> bool {
        (self.along)(why) || self.closes(why)
    }

    /// Whether every cycle of the shape has such an edge, or may begin with it.
    fn closes(self, why: Why) -> bool {
        if self.closed_by_read_write { why == Why::ReadWrite } else { (self.along)(why) }
    }
}

/// An edge of a cycle.
pub(super) type Edge = (usize, Why, usize);

/// A directed graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: Vec<(u32, Why, u32)>,
    /// Where the edges of a node begin, once they are sorted.
    starts: Vec<u32>,
}

impl Graph {
    /// Adds an edge; one from a node to itself says nothing.
    pub(super) fn add(&mut self, from: usize, why: Why, to: usize) {
        if from != to {
            let node = |node: usize| u32::try_from(node).expect("a run has fewer than 2^32 operations");
            self.edges.push((node(from), why, node(to)));
        }
    }

    /// How many edges there are.
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// Makes the graph ready to be walked, with that many nodes.
    pub(super) fn finish(&mut self, nodes: usize) {
        self.edges.sort_unstable();
        self.edges.dedup();
        self.starts = vec![0; nodes + 1];
        for (from, ..) in &self.edges {
            self.starts[*from as usize + 1] += 1;
        }
        for node in 0..nodes {
            self.starts[node + 1] += self.starts[node];
        }
    }

    fn from(&self, node: usize) -> &[(u32, Why, u32)] {
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    /// The strongly connected parts of more than one node, by the edges of a shape (Tarjan,
    /// SIAM J. Comput. 1972), without recursion: a part may be as long as the history.
    pub(super) fn knots(&self, shape: Shape) -> Vec<Vec<usize>> {
        const NEW: u32 = u32::MAX;
        let nodes = self.starts.len().saturating_sub(1);
        let mut found = vec![NEW; nodes];
        let mut low = vec![0_u32; nodes];
        let mut on_stack = vec![false; nodes];
        let (mut stack, mut walk, mut knots) = (Vec::new(), Vec::<(usize, usize)>::new(), Vec::new());
        let mut count = 0;
        for root in 0..nodes {
            if found[root] != NEW {
                continue;
            }
            walk.push((root, 0));
            while let Some((node, edge)) = walk.last_mut() {
                let node = *node;
                if *edge == 0 && found[node] == NEW {
                    (found[node], low[node]) = (count, count);
                    count += 1;
                    on_stack[node] = true;
                    stack.push(node);
                }
                if let Some((_, why, to)) = self.from(node).get(*edge) {
                    *edge += 1;
                    let to = *to as usize;
                    if !shape.has(*why) {
                        continue;
                    }
                    if found[to] == NEW {
                        walk.push((to, 0));
                    } else if on_stack[to] {
                        low[node] = low[node].min(found[to]);
                    }
                    continue;
                }
                walk.pop();
                if let Some((parent, _)) = walk.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == found[node] {
                    let from = stack.iter().rposition(|other| *other == node).unwrap_or_default();
                    let knot = stack.split_off(from);
                    for member in &knot {
                        on_stack[*member] = false;
                    }
                    if knot.len() > 1 {
                        knots.push(knot);
                    }
                }
            }
        }
        knots
    }

    /// A cycle of a shape within a part, if there is one: the smallest of those that were
    /// looked for.
    pub(super) fn cycle(&self, knot: &[usize], shape: Shape) -> Option<Vec<Edge>> {
        let part: HashMap<usize, usize> =
            knot.iter().enumerate().map(|(place, node)| (*node, place)).collect();
        let tries = (MAX_STEPS / knot.len().max(1)).clamp(1, MAX_TRIES);
        let edges = knot.iter().flat_map(|node| self.from(*node));
        let closing = edges.filter(|(_, why, to)| shape.closes(*why) && part.contains_key(&(*to as usize)));
        let cycles = closing.take(tries).filter_map(|(from, why, to)| {
            let (from, to) = (*from as usize, *to as usize);
            let mut cycle = vec![(from, *why, to)];
            cycle.extend(self.path(to, from, &part, shape.along)?);
            Some(cycle)
        });
        cycles.min_by_key(Vec::len)
    }

    /// The shortest way between two nodes of a part.
    fn path(
        &self,
        from: usize,
        to: usize,
        part: &HashMap<usize, usize>,
        along: fn(Why) -> bool,
    ) -> Option<Vec<Edge>> {
        let mut came: Vec<Option<Edge>> = vec![None; part.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                break;
            }
            for (_, why, next) in self.from(node) {
                let next = *next as usize;
                if let Some(place) = part.get(&next)
                    && along(*why)
                    && next != from
                    && came[*place].is_none()
                {
                    came[*place] = Some((node, *why, next));
                    queue.push_back(next);
                }
            }
        }
        let mut path = Vec::new();
        let mut node = to;
        while node != from {
            let edge = came[*part.get(&node)?]?;
            path.push(edge);
            node = edge.0;
        }
        path.reverse();
        Some(path)
    }
}
