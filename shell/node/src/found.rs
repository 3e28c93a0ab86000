//! Founds a swarm: identity, root of trust, the first log entry.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use skep_manager::{Manager, ManagerConfig};
use skep_model::{
    ClusterId, JoinTokens, ManagerAddress, NetworkId, NetworkSpec, NodeCertificate, NodeId, NodeRole, ObjectId as _,
    Sealed,
};
use skep_raft::Leadership;
use skep_store::{AtomicGroup, Change, NewCluster, NewNetwork, NewNode, Proposal};
use skep_trust::{
    ClusterKey, JoinToken, LeafSubject, NodeKey, Role, RootCa, SealKey, random_bytes, save_cluster_key,
    save_manager_key,
};

use crate::NodeError;
use crate::membership::{Folder, Membership, Phase};
use crate::options::Plan;

/// Time for a lone manager to lead: it elects itself.
const LEAD_WAIT: Duration = Duration::from_secs(10);
/// Where the root's key stands, for the seal.
const ROOT_KEY_CONTEXT: &[u8] = b"cluster/root-ca-key";

/// The keys of a manager.
pub(crate) struct Keys {
    pub(crate) manager: SealKey,
    pub(crate) cluster: ClusterKey,
}

/// Writes everything a manager needs and the cluster's first entry. The membership is not active yet when this returns.
pub(crate) async fn found(
    folder: &Folder,
    socket: std::path::PathBuf,
    plan: Plan,
) -> Result<(Membership, Manager), NodeError> {
    let membership = Membership {
        phase: Phase::Founding,
        cluster_id: ClusterId::from_random(random_bytes()),
        node_id: NodeId::from_random(random_bytes()),
        epoch: 1,
        address: plan.address.clone(),
        listen: plan.listen.clone(),
        snapshot_interval: plan.spec.raft.snapshot_interval,
        log_entries_for_slow_followers: plan.spec.raft.log_entries_for_slow_followers,
    };
    membership.save(folder).map_err(|error| NodeError::internal(&error))?;
    let keys = make_keys(folder)?;
    let trust = make_trust(folder, &membership, &plan, &keys.cluster)?;
    let config = manager_config(folder, socket, &membership, keys);
    let manager = Manager::create(config).await.map_err(|error| NodeError::internal(&error))?;
    if let Err(error) = first_entry(&manager, &membership, plan, trust).await {
        manager.shutdown().await;
        return Err(error);
    }
    Ok((membership, manager))
}

pub(crate) fn manager_config(
    folder: &Folder,
    socket: std::path::PathBuf,
    membership: &Membership,
    keys: Keys,
) -> ManagerConfig {
    let raft = skep_raft::Config {
        epoch: membership.epoch,
        snapshot_interval: membership.snapshot_interval,
        log_entries_for_slow_followers: membership.log_entries_for_slow_followers,
        ..skep_raft::Config::new(folder.raft(), membership.cluster_id.to_string())
    };
    ManagerConfig {
        raft,
        node_id: membership.node_id,
        address: membership.address.clone(),
        manager_key: keys.manager,
        cluster_key: keys.cluster,
        socket,
    }
}

/// Waits until the manager leads; false when that takes too long or it has stopped.
pub(crate) async fn leads(manager: &Manager) -> bool {
    let mut leadership = manager.leadership();
    let decided = leadership.wait_for(|now| *now != Leadership::Following);
    matches!(
        tokio::time::timeout(LEAD_WAIT, decided).await.map(|now| now.map(|now| *now)),
        Ok(Ok(Leadership::Leading { .. }))
    )
}

fn make_keys(folder: &Folder) -> Result<Keys, NodeError> {
    let keys = Keys { manager: SealKey::generate(), cluster: ClusterKey::generate() };
    save_manager_key(&folder.manager_key(), &keys.manager, None).map_err(|error| NodeError::internal(&error))?;
    save_cluster_key(&folder.cluster_key(), &keys.cluster, &keys.manager)
        .map_err(|error| NodeError::internal(&error))?;
    Ok(keys)
}

/// The root of trust and the first node's certificate.
struct Trust {
    root: skep_model::RootCa,
    certificate: NodeCertificate,
}

fn make_trust(
    folder: &Folder,
    membership: &Membership,
    plan: &Plan,
    cluster_key: &ClusterKey,
) -> Result<Trust, NodeError> {
    let now = SystemTime::now();
    let root = RootCa::generate(now).map_err(|error| NodeError::internal(&error))?;
    let key = NodeKey::generate().map_err(|error| NodeError::internal(&error))?;
    let request = key.certificate_request().map_err(|error| NodeError::internal(&error))?;
    let (cluster_id, node_id) = (membership.cluster_id.to_string(), membership.node_id.to_string());
    let subject = LeafSubject { cluster_id: &cluster_id, node_id: &node_id, role: Role::Manager };
    let certificate = root
        .issue(&request, &subject, plan.spec.ca.node_cert_expiry, now)
        .map_err(|error| NodeError::internal(&error))?;
    let paths = folder.certificates();
    paths.write_root(root.certificate_pem()).map_err(|error| NodeError::internal(&error))?;
    paths.write_node(&certificate, &key.to_pem()).map_err(|error| NodeError::internal(&error))?;
    let bundle = root.certificate_pem().as_bytes();
    let sealed = cluster_key.seal(ROOT_KEY_CONTEXT, root.key_pem().as_bytes());
    let join_tokens = new_tokens(bundle);
    Ok(Trust {
        root: skep_model::RootCa {
            certificate: bundle.to_vec(),
            key: Sealed(sealed.into_bytes()),
            digest: format!("sha256:{}", hex::encode(Sha256::digest(bundle))),
            join_tokens,
        },
        certificate: NodeCertificate {
            certificate: certificate.into_bytes(),
            csr: request.into_bytes(),
            ..NodeCertificate::default()
        },
    })
}

/// Fresh tokens for both roles.
pub(crate) fn new_tokens(bundle: &[u8]) -> JoinTokens {
    JoinTokens { worker: JoinToken::generate(bundle).to_string(), manager: JoinToken::generate(bundle).to_string() }
}

async fn first_entry(manager: &Manager, membership: &Membership, plan: Plan, trust: Trust) -> Result<(), NodeError> {
    if !leads(manager).await {
        return Err(NodeError::Internal("the first manager of the swarm did not come to lead".to_owned()));
    }
    let cluster = NewCluster {
        id: membership.cluster_id,
        spec: plan.spec,
        root_ca: trust.root,
        address_pools: plan.address_pools,
        subnet_size: plan.subnet_size,
        data_path_port: plan.data_path_port,
    };
    let node = NewNode {
        id: membership.node_id,
        role: NodeRole::Manager,
        availability: plan.availability,
        certificate: trust.certificate,
        manager: Some(ManagerAddress { raft_id: manager.raft_id(), address: membership.address.clone() }),
    };
    let networks = [NetworkSpec::ingress(), NetworkSpec::of_the_node("bridge"), NetworkSpec::of_the_node("host")];
    let mut group = AtomicGroup::of(Change::CreateCluster(Box::new(cluster))).and(Change::CreateNode(Box::new(node)));
    for spec in networks {
        let id = NetworkId::from_random(random_bytes());
        group = group.and(Change::CreateNetwork(Box::new(NewNetwork { id, spec: spec.into() })));
    }
    let committed =
        manager.propose(Proposal { change_set: vec![group] }).await.map_err(|error| NodeError::internal(&error))?;
    committed.outcome.ok().map_err(|error| NodeError::internal(&error))
}

/// What this node trusts and by whom it was signed, for its description.
pub(crate) fn tls_info(folder: &Folder) -> Result<skep_model::TlsInfo, NodeError> {
    let paths = folder.certificates();
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path)
            .map_err(|error| NodeError::Internal(format!("cannot read certificate {path:?}: {error}")))
    };
    let root = read(&paths.root)?;
    let roots = skep_trust::parse_bundle(&root).map_err(|error| NodeError::internal(&error))?;
    let leaf = skep_trust::parse_leaf(&read(&paths.certificate)?).map_err(|error| NodeError::internal(&error))?;
    let issuer = roots.iter().find(|root| root.subject_der == leaf.issuer_subject_der);
    Ok(skep_model::TlsInfo {
        trust_root: root.into_bytes(),
        issuer_subject: leaf.issuer_subject_der,
        issuer_public_key: issuer.map(|root| root.public_key_der.clone()).unwrap_or_default(),
    })
}

/// The keys on disk.
pub(crate) fn load_keys(folder: &Folder) -> Result<Keys, NodeError> {
    let manager =
        skep_trust::load_manager_key(&folder.manager_key(), None).map_err(|error| NodeError::internal(&error))?;
    let cluster =
        skep_trust::load_cluster_key(&folder.cluster_key(), &manager).map_err(|error| NodeError::internal(&error))?;
    Ok(Keys { manager, cluster })
}
