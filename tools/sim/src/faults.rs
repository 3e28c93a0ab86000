//! What goes wrong.

use crate::manager::LOOPS;
use crate::node::Container;
use crate::sim::{MILLI, SECOND, Sim, What};

impl Sim {
    pub(crate) fn fault_strikes(&mut self) {
        let node = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0);
        match self.rng.below(100) {
            0..35 => self.crash_container(node),
            35..50 => {
                let back_after = self.between(100 * MILLI, 3 * SECOND);
                self.node_dies(node, false, back_after);
            }
            50..58 => {
                let back_after = self.between(SECOND, 60 * SECOND);
                self.node_dies(node, true, back_after);
            }
            58..68 => self.cut_off(node),
            68..78 => {
                self.say(|| format!("n{node} loses its connection"));
                self.break_link(node);
            }
            78..92 => {
                let which = usize::try_from(self.rng.below(LOOPS as u64)).unwrap_or(0);
                self.forget_loop(which);
            }
            _ => self.change_leader(),
        }
    }

    fn crash_container(&mut self, node: usize) {
        let running: Vec<_> = self.nodes[node]
            .containers
            .iter()
            .filter(|(_, container)| **container == Container::Running)
            .map(|(task, _)| *task)
            .collect();
        if running.is_empty() {
            return;
        }
        let task = running[usize::try_from(self.rng.below(running.len() as u64)).unwrap_or(0)];
        let code = i32::from(self.chance(60));
        self.say(|| format!("container of task {task} on n{node} exits with {code}"));
        self.container_exits(node, task, code);
    }

    /// No packet gets through for a while: reports and assignments on their way are lost.
    fn cut_off(&mut self, node: usize) {
        let time = self.between(SECOND, 60 * SECOND);
        self.say(|| format!("n{node} is cut off for {} s", time / SECOND));
        self.nodes[node].is_cut = true;
        self.break_link(node);
        self.after(time, What::Reconnectable { node });
    }
}
