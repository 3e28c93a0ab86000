//! Parts of a spec that a request's API version does not know yet: the engine drops them before it stores the spec, and
//! so an old client gets what it always got.

use std::borrow::Cow;

use super::ServiceSpec;
use crate::ApiVersion;

impl ServiceSpec<'_> {
    /// Drops what `version` does not know (the engine's `adjustForAPIVersion`).
    pub fn adjust_for(&mut self, version: ApiVersion) {
        let task = &mut self.task_template;
        if !version.is_at_least(52)
            && let Some(resources) = &mut task.resources
        {
            resources.swap_bytes = None;
            resources.memory_swappiness = None;
        }
        if let Some(container) = &mut task.container_spec {
            if !version.is_at_least(46) {
                container.oom_score_adj = 0;
                for tmpfs in container.mounts.iter_mut().filter_map(|mount| mount.tmpfs_options.as_mut()) {
                    tmpfs.options = Cow::default();
                }
            }
            if !version.is_at_least(44) {
                if let Some(health) = &mut container.healthcheck {
                    health.start_interval = 0;
                }
                if let Some(privileges) = &mut container.privileges {
                    privileges.seccomp = None;
                    privileges.app_armor = None;
                    privileges.no_new_privileges = false;
                }
            }
            if !version.is_at_least(41) {
                container.capability_add = Cow::default();
                container.capability_drop = Cow::default();
                container.ulimits.clear();
            }
            if !version.is_at_least(40) {
                container.sysctls = Cow::default();
                container.configs.retain(|config| config.runtime.is_none());
                if let Some(spec) = container.privileges.as_mut().and_then(|all| all.credential_spec.as_mut()) {
                    spec.config = Cow::default();
                }
            }
        }
        if !version.is_at_least(41) {
            if let Some(limits) = task.resources.as_mut().and_then(|resources| resources.limits.as_mut()) {
                limits.pids = 0;
            }
            self.mode.replicated_job = None;
            self.mode.global_job = None;
        }
        if !version.is_at_least(40)
            && let Some(placement) = &mut task.placement
        {
            placement.max_replicas = 0;
        }
        if !version.is_at_least(44) && task.networks.is_empty() {
            task.networks = std::mem::take(&mut self.networks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn what_a_version_does_not_know_is_dropped() {
        let text = r#"{"TaskTemplate":{"ContainerSpec":{"Sysctls":{"a":"b"},"CapabilityAdd":["CAP_X"],
            "OomScoreAdj":5,"Privileges":{"NoNewPrivileges":true}},"Resources":{"Limits":{"Pids":3}},
            "Placement":{"MaxReplicas":2}},"Networks":[{"Target":"n"}]}"#;
        let at = |minor| {
            let mut spec: ServiceSpec<'static> = decode(text.as_bytes()).unwrap();
            spec.adjust_for(ApiVersion { major: 1, minor });
            spec
        };
        let newest = at(50);
        assert_eq!(newest.networks.len(), 1);
        assert_eq!(newest.task_template.container_spec.as_ref().unwrap().oom_score_adj, 5);
        let older = at(43);
        assert_eq!(older.task_template.networks.len(), 1);
        assert!(!older.task_template.container_spec.unwrap().privileges.unwrap().no_new_privileges);
        let oldest = at(24).task_template;
        let container = oldest.container_spec.unwrap();
        assert!(container.sysctls.is_empty() && container.capability_add.is_empty());
        assert_eq!(oldest.resources.unwrap().limits.unwrap().pids, 0);
        assert_eq!(oldest.placement.unwrap().max_replicas, 0);
    }
}
