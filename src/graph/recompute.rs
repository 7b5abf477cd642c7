//! Chooses which activations to drop after the forward pass so that the peak stays under a budget.
//!
//! A greedy search. While the peak is too high, it drops one of the tensors that are live at the
//! peak: the one that lowers the peak most per floating-point operation of recomputation.
//! Afterwards it keeps dropped tensors again as far as the budget allows, starting with the most
//! expensive.

use super::lifetimes::{Lifetimes, node_flops};
use super::schedule::{Schedule, saved_tensors, schedule};
use crate::graph::record::{Graph, Source, TensorId};
use crate::tensor::Dtype;

/// Candidates simulated per decision. More candidates give slightly better plans and take more
/// planning time.
const CANDIDATES: usize = 12;

/// A schedule whose live bytes stay within `budget`, or the smallest one found.
pub(crate) fn within_budget(graph: &Graph, storage: Dtype, budget: u64) -> Schedule {
    let mut search = Search { graph, storage, saved: saved_tensors(graph) };
    let mut best = search.simulate();
    while best.peak > budget {
        match search.drop_one(&best) {
            Some(better) => best = better,
            None => break,
        }
    }
    if best.peak <= budget {
        best = search.give_back(best, budget);
    }
    best.schedule
}

struct Search<'a> {
    graph: &'a Graph,
    storage: Dtype,
    saved: Vec<bool>,
}

struct Outcome {
    schedule: Schedule,
    lifetimes: Lifetimes,
    peak: u64,
    flops: u64,
}

impl Search<'_> {
    fn simulate(&self) -> Outcome {
        let schedule = schedule(self.graph, &self.saved);
        let lifetimes = Lifetimes::of(self.graph, &schedule, self.storage);
        let flops = schedule.steps.iter().filter(|s| s.recomputed).map(|s| node_flops(self.graph, s.node)).sum();
        Outcome { peak: lifetimes.peak_bytes, schedule, lifetimes, flops }
    }

    fn simulate_with(&mut self, tensor: usize, saved: bool) -> Outcome {
        let before = std::mem::replace(&mut self.saved[tensor], saved);
        let outcome = self.simulate();
        self.saved[tensor] = before;
        outcome
    }

    fn drop_one(&mut self, best: &Outcome) -> Option<Outcome> {
        let mut candidates: Vec<(f64, usize)> = (0..best.schedule.tensor_of.len())
            .filter(|&i| best.lifetimes.live_at_peak(i))
            .map(|i| best.schedule.tensor_of[i])
            .filter(|&t| self.can_drop(t))
            .map(|t| {
                let bytes = best.lifetimes.bytes_of(self.graph, t) as f64;
                (bytes / (1.0 + self.remaking_flops(t, 0) as f64), t.0 as usize)
            })
            .collect();
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        candidates.dedup_by_key(|c| c.1);
        let mut chosen: Option<(f64, usize, Outcome)> = None;
        for (_, tensor) in candidates.into_iter().take(CANDIDATES) {
            let outcome = self.simulate_with(tensor, false);
            if outcome.peak >= best.peak {
                continue;
            }
            let gain = (best.peak - outcome.peak) as f64 / (1e6 + outcome.flops.saturating_sub(best.flops) as f64);
            if chosen.as_ref().is_none_or(|c| gain > c.0) {
                chosen = Some((gain, tensor, outcome));
            }
        }
        let (_, tensor, outcome) = chosen?;
        self.saved[tensor] = false;
        Some(outcome)
    }

    /// Whether `t` is a saved forward activation that is not an output: the host reads outputs
    /// after the run.
    fn can_drop(&self, t: TensorId) -> bool {
        let produced_forward = matches!(self.graph.tensor(t).source, Source::Node(n) if !self.graph.node(n).reverse);
        produced_forward && self.saved[t.0 as usize] && !self.graph.outputs().contains(&t)
    }

    /// Floating-point operations to recompute `t` from saved values, looking back at most a few
    /// nodes.
    fn remaking_flops(&self, t: TensorId, depth: usize) -> u64 {
        let Source::Node(n) = self.graph.tensor(t).source else { return 0 };
        let mut flops = node_flops(self.graph, n);
        if depth < 4 {
            for &input in &self.graph.node(n).inputs {
                if !self.saved[input.0 as usize] {
                    flops += self.remaking_flops(input, depth + 1);
                }
            }
        }
        flops
    }

    fn give_back(&mut self, mut best: Outcome, budget: u64) -> Outcome {
        let all = saved_tensors(self.graph);
        let mut dropped: Vec<usize> = (0..all.len()).filter(|&i| all[i] && !self.saved[i]).collect();
        dropped.sort_by_key(|&i| std::cmp::Reverse(self.remaking_flops(TensorId(i as u32), 0)));
        for tensor in dropped {
            let outcome = self.simulate_with(tensor, true);
            if outcome.peak <= budget && outcome.flops < best.flops {
                self.saved[tensor] = true;
                best = outcome;
            }
        }
        best
    }
}
