//! All states of a small model as a graph, and the search for a fair run that never reaches a goal.

use std::collections::HashMap;

use stateright::Model;

use crate::setting::Setting;
use crate::steps::Act;
use crate::world::World;

/// The reachable states, and the steps between them.
#[derive(Debug)]
pub struct Graph {
    /// The states.
    pub worlds: Vec<World>,
    /// The steps.
    acts: Vec<Act>,
    /// For each state, its steps and where they lead.
    edges: Vec<Vec<(u32, u32)>>,
}

impl Graph {
    /// Explores all states.
    pub fn of(setting: &Setting) -> Self {
        let (mut worlds, mut numbers, mut edges) = (Vec::new(), HashMap::new(), Vec::new());
        let (mut acts, mut labels) = (Vec::new(), HashMap::new());
        for world in setting.init_states() {
            numbers.insert(world.clone(), worlds.len() as u32);
            worlds.push(world);
        }
        while edges.len() < worlds.len() {
            let world = worlds[edges.len()].clone();
            let (mut possible, mut steps) = (Vec::new(), Vec::new());
            setting.actions(&world, &mut possible);
            for act in possible {
                let Some(next) = setting.next_state(&world, act) else { continue };
                if next == world {
                    continue;
                }
                let number = *numbers.entry(next).or_insert_with_key(|next| {
                    worlds.push(next.clone());
                    worlds.len() as u32 - 1
                });
                let label = *labels.entry(act).or_insert_with(|| {
                    acts.push(act);
                    acts.len() as u32 - 1
                });
                steps.push((label, number));
            }
            edges.push(steps);
        }
        Self { worlds, acts, edges }
    }

    /// Looks for states in which a run can stay for ever without reaching a goal, although each fair step that is possible
    /// again and again is taken again and again. From some moment on, the steps for which `fails` holds do not happen. The
    /// result is the states that such a run visits again and again.
    pub fn fair_run(
        &self,
        misses_goal: impl Fn(&World) -> bool,
        fails: impl Fn(&Act) -> bool,
        fair: impl Fn(&Act) -> bool,
    ) -> Option<Vec<&World>> {
        let fails: Vec<bool> = self.acts.iter().map(&fails).collect();
        let fair: Vec<bool> = self.acts.iter().enumerate().map(|(n, act)| !fails[n] && fair(act)).collect();
        let all = (0..self.worlds.len() as u32).filter(|n| misses_goal(&self.worlds[*n as usize]));
        let mut work = vec![all.collect::<Vec<_>>()];
        while let Some(states) = work.pop() {
            for part in self.components(&states, &fails) {
                match self.unfair(&part, &fails, &fair) {
                    labels if labels.is_empty() => {
                        return Some(part.iter().map(|n| &self.worlds[*n as usize]).collect());
                    }
                    labels => {
                        let hit =
                            |n: &u32| self.edges[*n as usize].iter().any(|(label, _)| labels.contains(label));
                        let rest: Vec<u32> = part.iter().copied().filter(|n| !hit(n)).collect();
                        if !rest.is_empty() {
                            work.push(rest);
                        }
                    }
                }
            }
        }
        None
    }

    /// The fair steps that are possible somewhere in `part`, and never taken within it.
    fn unfair(&self, part: &[u32], fails: &[bool], fair: &[bool]) -> Vec<u32> {
        let inside: std::collections::HashSet<u32> = part.iter().copied().collect();
        let (mut possible, mut taken) = (vec![false; self.acts.len()], vec![false; self.acts.len()]);
        for n in part {
            for (label, to) in &self.edges[*n as usize] {
                let label = *label as usize;
                possible[label] = true;
                taken[label] |= !fails[label] && inside.contains(to);
            }
        }
        let labels = 0..self.acts.len();
        labels.filter(|n| fair[*n] && possible[*n] && !taken[*n]).map(|n| n as u32).collect()
    }

    /// The strongly connected parts of `states`, by Tarjan's algorithm. A single state is a part, too: a run can stay there.
    fn components(&self, states: &[u32], fails: &[bool]) -> Vec<Vec<u32>> {
        const NEW: u32 = u32::MAX;
        let mut here = vec![false; self.worlds.len()];
        states.iter().for_each(|n| here[*n as usize] = true);
        let (mut index, mut low) = (vec![NEW; here.len()], vec![NEW; here.len()]);
        let (mut on_stack, mut stack, mut parts, mut count) =
            (vec![false; here.len()], Vec::new(), Vec::new(), 0);
        for root in states {
            if index[*root as usize] != NEW {
                continue;
            }
            let mut calls = vec![(*root as usize, 0_usize)];
            while let Some((n, at)) = calls.pop() {
                if at == 0 {
                    (index[n], low[n]) = (count, count);
                    count += 1;
                    stack.push(n as u32);
                    on_stack[n] = true;
                }
                let allowed = |(label, to): &&(u32, u32)| !fails[*label as usize] && here[*to as usize];
                match self.edges[n].iter().filter(allowed).nth(at) {
                    Some((_, to)) => {
                        let to = *to as usize;
                        calls.push((n, at + 1));
                        if index[to] == NEW {
                            calls.push((to, 0));
                        } else if on_stack[to] {
                            low[n] = low[n].min(index[to]);
                        }
                    }
                    None => {
                        if low[n] == index[n] {
                            let start = stack.iter().rposition(|m| *m as usize == n).unwrap_or_default();
                            let part = stack.split_off(start);
                            part.iter().for_each(|m| on_stack[*m as usize] = false);
                            parts.push(part);
                        }
                        if let Some((parent, _)) = calls.last() {
                            low[*parent] = low[*parent].min(low[n]);
                        }
                    }
                }
            }
        }
        parts
    }
}
