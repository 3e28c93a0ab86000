//! Requests about the cluster object.

use std::time::Duration;

use skep_model::{ClusterSpec, JoinTokens, RootCa, Version};
use skep_store::{AtomicGroup, Change, State};

use crate::{Admitted, Code, Refusal};

/// Shortest life of a node's certificate.
const CERT_EXPIRY_MIN: Duration = Duration::from_secs(3600);

pub(crate) fn update(
    view: &State,
    version: Version,
    spec: ClusterSpec,
    new_tokens: JoinTokens,
    rotate_unlock_key: bool,
) -> Result<Admitted, Refusal> {
    let cluster = view.cluster().ok_or_else(|| Refusal::new(Code::NotFound, "cluster default not found"))?;
    if !spec.name.is_empty() && spec.name != "default" {
        return Err(Refusal::invalid("modification of cluster name is not allowed"));
    }
    if spec.ca.node_cert_expiry < CERT_EXPIRY_MIN {
        return Err(Refusal::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    if spec.auto_lock_managers {
        return Err(Refusal::unsupported("EncryptionConfig.AutoLockManagers (--autolock)"));
    }
    if rotate_unlock_key {
        return Err(Refusal::new(Code::FailedPrecondition, "cannot rotate because autolock is not turned on"));
    }
    if spec.ca.force_rotate != cluster.spec.ca.force_rotate {
        return Err(Refusal::unsupported("CAConfig.ForceRotate (rotation of the root certificate)"));
    }
    let spec = ClusterSpec { name: "default".to_owned(), ..spec };
    let mut group = AtomicGroup::of(Change::SetClusterSpec { expect: version, spec: Box::new(spec) });
    if new_tokens != JoinTokens::default() {
        let keep = |new: String, old: &String| if new.is_empty() { old.clone() } else { new };
        let old = &cluster.root_ca.join_tokens;
        let join_tokens = JoinTokens {
            worker: keep(new_tokens.worker, &old.worker),
            manager: keep(new_tokens.manager, &old.manager),
        };
        let root = Box::new(RootCa { join_tokens, ..cluster.root_ca.clone() });
        group = group.and(Change::SetRootCa { expect: cluster.root_version, root });
    }
    Ok(Admitted { changes: vec![group], ..Admitted::default() })
}
