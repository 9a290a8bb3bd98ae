//! Who came before whom, and whether anyone came before themselves.

use std::collections::{HashMap, VecDeque};

use crate::check::describe;
use crate::history::Operation;

/// Why one call came before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// The other wrote over what it wrote.
    WriteWrite,
    /// The other read what it wrote.
    WriteRead,
    /// The other wrote over what it read.
    ReadWrite,
    /// It had returned when the other was called.
    RealTime,
}

impl Edge {
    fn words(self) -> &'static str {
        match self {
            Self::WriteWrite => "was overwritten by",
            Self::WriteRead => "was read by",
            Self::ReadWrite => "did not see",
            Self::RealTime => "had returned before",
        }
    }
}

/// A graph of calls and, to keep real time linear, of moments: one after each return, each before the next.
#[derive(Debug)]
pub(super) struct Graph {
    edges: Vec<Vec<(usize, Edge)>>,
    calls: usize,
}

impl Graph {
    /// The graph of real time.
    pub(super) fn new(operations: &[Operation]) -> Self {
        let calls = operations.len();
        let mut returns: Vec<(u64, usize)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            if operation.response().is_some() {
                returns.push((operation.ret, index));
            }
        }
        returns.sort_unstable();
        let mut graph = Self {
            edges: vec![Vec::new(); calls + returns.len()],
            calls,
        };
        for (place, (_, index)) in returns.iter().enumerate() {
            graph.add(*index, calls + place, Edge::RealTime);
            if place > 0 {
                graph.add(calls + place - 1, calls + place, Edge::RealTime);
            }
        }
        for (index, operation) in operations.iter().enumerate() {
            let before = returns.partition_point(|(ret, _)| *ret < operation.call);
            if before > 0 {
                graph.add(calls + before - 1, index, Edge::RealTime);
            }
        }
        graph
    }

    pub(super) fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges[from].push((to, edge));
        }
    }

    /// One sentence for each knot of calls that came before themselves.
    pub(super) fn cycles(&self, operations: &[Operation]) -> Vec<String> {
        let component = self.components();
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        for component in &component[..self.calls] {
            *sizes.entry(*component).or_default() += 1;
        }
        let mut found = Vec::new();
        for (call, knot) in component.iter().enumerate().take(self.calls) {
            // One sentence for each: the first of its calls tells it.
            if sizes.get(knot).is_some_and(|size| *size > 1) {
                sizes.remove(knot);
                found.push(self.shortest(call, &component, operations));
            }
        }
        found
    }

    /// Tarjan's strongly connected components, without recursion.
    fn components(&self) -> Vec<usize> {
        const NONE: usize = usize::MAX;
        let nodes = self.edges.len();
        let (mut order, mut low, mut component) = (vec![NONE; nodes], vec![0; nodes], vec![NONE; nodes]);
        let (mut stack, mut path): (Vec<usize>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        let (mut next_order, mut next_component) = (0, 0);
        for root in 0..nodes {
            if order[root] != NONE {
                continue;
            }
            path.push((root, 0));
            while let Some((node, edge)) = path.pop() {
                if edge == 0 {
                    (order[node], low[node]) = (next_order, next_order);
                    next_order += 1;
                    stack.push(node);
                }
                if let Some((to, _)) = self.edges[node].get(edge) {
                    path.push((node, edge + 1));
                    if order[*to] == NONE {
                        path.push((*to, 0));
                    } else if component[*to] == NONE {
                        low[node] = low[node].min(order[*to]);
                    }
                    continue;
                }
                if low[node] == order[node] {
                    while let Some(member) = stack.pop() {
                        component[member] = next_component;
                        if member == node {
                            break;
                        }
                    }
                    next_component += 1;
                }
                if let Some((parent, _)) = path.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
            }
        }
        component
    }

    /// The shortest way from a call back to itself, in words.
    fn shortest(&self, start: usize, component: &[usize], operations: &[Operation]) -> String {
        let mut came: HashMap<usize, (usize, Edge)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(node) = queue.pop_front() {
            for (to, edge) in &self.edges[node] {
                if component[*to] == component[start] && !came.contains_key(to) {
                    came.insert(*to, (node, *edge));
                    if *to == start {
                        break 'search;
                    }
                    queue.push_back(*to);
                }
            }
        }
        let mut steps = Vec::new();
        let mut node = start;
        while let Some((from, edge)) = came.get(&node) {
            steps.push((*from, *edge));
            node = *from;
            if node == start {
                break;
            }
        }
        steps.reverse();
        let mut text = "cycle: ".to_owned();
        for (from, edge) in steps {
            // Moments are passed over; the edge into the first of them tells the reason.
            if from < self.calls {
                text.push_str(&format!("{} {} ", describe(&operations[from]), edge.words()));
            }
        }
        text + "the first"
    }
}
