//! What a container made by hand takes from others: their namespaces, when it starts, and their mounts, when it is made.

use skep_model::{BindOptions, Mount, MountKind};
use skep_oci::{ContainerConfig, Namespace, Status};

use crate::blueprint::{Share, Wanted};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::record::{MountRecord, Record};

impl Inner {
    /// Names of containers become ids, so that a renamed one is still found.
    pub(crate) fn settle_shares(&self, wanted: &mut Wanted) -> Result<()> {
        for share in [&mut wanted.more.pid, &mut wanted.more.ipc] {
            if let Share::Container(name) = share {
                *name = self.table.find(name)?.id().to_owned();
            }
        }
        Ok(())
    }

    /// Finds the namespaces of the containers that this one shares.
    pub(crate) fn join_namespaces(&self, record: &Record, config: &mut ContainerConfig) -> Result<()> {
        let Some(by_hand) = &record.by_hand else { return Ok(()) };
        for (share, namespace) in [(&by_hand.pid, &mut config.pid), (&by_hand.ipc, &mut config.ipc)] {
            if let Share::Container(id) = share {
                *namespace = self.namespace_of(id)?;
            }
        }
        Ok(())
    }

    fn namespace_of(&self, id: &str) -> Result<Namespace> {
        let other = self.table.find(id)?;
        if let Status::Alive(pids) = other.bundle().status()?
            && let Some(init) = pids.init
        {
            return Ok(Namespace::Of(init));
        }
        let text = format!("cannot join the namespace of a container that does not run: container {id} is not running");
        Err(EngineError::Conflict(text))
    }

    /// Adds the mounts of other containers where there is none yet.
    pub(crate) fn add_volumes_from(&self, wanted: &mut Wanted) -> Result<()> {
        for text in std::mem::take(&mut wanted.more.volumes_from) {
            let (name, mode) = text.split_once(':').unwrap_or((&text, "rw"));
            let read_only = match mode {
                "ro" => true,
                "rw" | "" | "z" | "Z" => false,
                _ => return Err(EngineError::Invalid(format!("invalid mode: {mode}"))),
            };
            let other = self.table.find(name)?;
            for mount in mounts_of(&other, read_only) {
                if !wanted.spec.mounts.iter().any(|known| known.target == mount.target) {
                    wanted.spec.mounts.push(mount);
                }
            }
        }
        Ok(())
    }
}

fn mounts_of(container: &Container, read_only: bool) -> impl Iterator<Item = Mount> + '_ {
    let mount = move |mount: &MountRecord| {
        let (kind, source, bind) = match (mount.kind.as_str(), &mount.volume) {
            ("volume", Some(volume)) => (MountKind::Volume, volume.name.clone(), None),
            ("bind", _) => {
                let bind = BindOptions { propagation: mount.propagation.clone(), ..BindOptions::default() };
                (MountKind::Bind, mount.source.clone(), Some(bind))
            }
            _ => return None,
        };
        let target = mount.destination.clone();
        Some(Mount { kind, source, target, read_only: read_only || !mount.rw, bind, ..Mount::default() })
    };
    container.record.mounts.iter().filter_map(mount)
}
