//! A change of a container's limits and restart policy, by `docker update`: kept for its next runs, and told to the kernel when
//! it runs.

use std::sync::Arc;

use skep_oci::Resources;

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::restart::{RestartKind, RestartPolicy};
use crate::tell::NOTHING;

/// What is to change; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Limits that are given take the place of those that were.
    pub limits: Resources,
    /// Another restart policy.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes limits and restart policy of a container.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] with Docker's texts when the new values contradict those that stay; when the kernel refuses.
    pub async fn update(&self, name: &str, update: Update) -> Result<()> {
        let container = self.inner.table.find(name)?;
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.update(&container, update).await }).await
    }
}

impl Inner {
    async fn update(self: &Arc<Self>, container: &Arc<Container>, update: Update) -> Result<()> {
        let _operation = container.operation.lock().await;
        let cannot = |why: &str| EngineError::Conflict(format!("Cannot update container {}: {why}", container.id()));
        if let Some(restart) = update.restart {
            if container.record.by_hand.is_none() {
                return Err(cannot("its service decides when it is restarted"));
            }
            if container.is_auto_removed() && restart.kind != RestartKind::No {
                let text = "Restart policy cannot be updated because AutoRemove is enabled for the container";
                return Err(cannot(text));
            }
        }
        let old = container.current().config.resources.clone();
        let limits = merge(&old, update.limits).map_err(|why| cannot(&why))?;
        if limits != old && container.state().is_running() {
            let config = &container.record.config;
            let (parent, id, new) = (config.cgroup_parent.clone(), config.id.clone(), limits.clone());
            let set = self.blocking(move |_| Ok(skep_oci::set_limits(&parent, &id, &new))).await?;
            set.map_err(|why| cannot(&why.to_string()))?;
        }
        self.change_facts(container, |facts| {
            if limits != old {
                facts.resources = Some(limits);
            }
            if update.restart.is_some() {
                facts.restart = update.restart;
            }
        })
        .await?;
        self.tell(container, "update", NOTHING);
        Ok(())
    }
}

/// The new limits over the old ones. The texts are Docker's.
fn merge(old: &Resources, new: Resources) -> Result<Resources, String> {
    let fails = |text: &str| Err(text.to_owned());
    if new.nano_cpus.is_some() && (old.cpu_period.is_some() || old.cpu_quota.is_some()) {
        return fails("Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set");
    }
    if old.nano_cpus.is_some() && (new.cpu_period.is_some() || new.cpu_quota.is_some()) {
        return fails("Conflicting options: CPU Period or Quota cannot be updated as NanoCPUs has already been set");
    }
    let memory = new.memory.or(old.memory);
    let swap = new.memory_swap.or(old.memory_swap);
    if new.memory.is_some() && new.memory_swap.is_none() {
        // What Docker sets when nothing is said counts as said.
        let set = old.memory_swap.or(old.memory.map(|memory| memory.saturating_mul(2)));
        if let (Some(set), Some(memory)) = (set, memory)
            && set > 0
            && memory > set
        {
            return fails(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            );
        }
    }
    Ok(Resources {
        memory,
        memory_swap: if new.memory.is_some() && swap.is_none() {
            old.memory.map(|memory| memory.saturating_mul(2))
        } else {
            swap
        },
        memory_swappiness: new.memory_swappiness.or(old.memory_swappiness),
        memory_reservation: new.memory_reservation.or(old.memory_reservation),
        nano_cpus: new.nano_cpus.or(old.nano_cpus),
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        cpu_period: new.cpu_period.or(old.cpu_period),
        cpu_quota: new.cpu_quota.or(old.cpu_quota),
        cpuset_cpus: new.cpuset_cpus.or_else(|| old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.or_else(|| old.cpuset_mems.clone()),
        pids: new.pids.or(old.pids),
        blkio_weight: new.blkio_weight.or(old.blkio_weight),
        ..old.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_limits_replace_old_ones() {
        let old = Resources { memory: Some(64), nano_cpus: Some(1), pids: Some(5), ..Resources::default() };
        let new = Resources { memory: Some(96), ..Resources::default() };
        let merged = merge(&old, new).unwrap();
        assert_eq!(
            (merged.memory, merged.memory_swap, merged.nano_cpus, merged.pids),
            (Some(96), Some(128), Some(1), Some(5))
        );
        let too_much = Resources { memory: Some(200), ..Resources::default() };
        assert!(merge(&old, too_much.clone()).unwrap_err().contains("update the memoryswap at the same time"));
        assert!(merge(&old, Resources { memory_swap: Some(-1), ..too_much }).is_ok());
        let quota = Resources { cpu_quota: Some(1000), ..Resources::default() };
        assert!(merge(&old, quota).unwrap_err().contains("NanoCPUs has already been set"));
    }
}
