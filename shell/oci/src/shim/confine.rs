//! What every process of a container is held to: user, groups, capabilities, `no_new_privs`, the system call filter. The
//! first process takes it on from libcontainer's hands, an exec from the file that the first one's shim left.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::oci_spec::runtime::{Capability as OciCapability, PosixRlimit, Spec};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use crate::record::write_atomically;

/// In the runtime directory: the confinement, and its filter if there is one.
const CONFINEMENT_FILE: &str = "confinement.json";
const FILTER_FILE: &str = "filter.bpf";

/// The confinement of a container, and what else an exec inherits from its configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Confinement {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// By number, one bit each.
    capabilities: u64,
    no_new_privileges: bool,
    filtered: bool,
    rlimits: Vec<PosixRlimit>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
}

impl Confinement {
    /// Takes it out of the spec, where libcontainer would find it and do it again. The filter is still to be compiled.
    pub(super) fn take_from(spec: &mut Spec) -> Option<Self> {
        let mut process = spec.process().clone()?;
        let bounding = process.capabilities().as_ref().and_then(|all| all.bounding().clone()).unwrap_or_default();
        let user = process.user();
        let confinement = Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            capabilities: bounding.iter().filter_map(number).fold(0, |bits, number| bits | 1 << number),
            no_new_privileges: process.no_new_privileges() == Some(true),
            filtered: spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()),
            rlimits: process.rlimits().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().to_string_lossy().into_owned(),
        };
        process.set_capabilities(None);
        process.set_no_new_privileges(None);
        spec.set_process(Some(process));
        if let Some(mut linux) = spec.linux().clone() {
            linux.set_seccomp(None);
            spec.set_linux(Some(linux));
        }
        Some(confinement)
    }

    pub(super) fn save(&self, runtime: &Path, filter: Option<&Filter>) -> io::Result<()> {
        if let Some(filter) = filter {
            std::fs::write(runtime.join(FILTER_FILE), filter.to_bytes())?;
        }
        write_atomically(runtime, CONFINEMENT_FILE, self)
    }

    pub(super) fn load(runtime: &Path) -> io::Result<(Self, Option<Filter>)> {
        let confinement: Self = serde_json::from_slice(&std::fs::read(runtime.join(CONFINEMENT_FILE))?)?;
        let filter = if confinement.filtered {
            Some(Filter::from_bytes(&std::fs::read(runtime.join(FILTER_FILE))?)?)
        } else {
            None
        };
        Ok((confinement, filter))
    }

    /// Everything is allowed (`docker exec --privileged`).
    pub(super) fn lift(&mut self) {
        self.capabilities = caps::all().iter().fold(0, |bits, capability| bits | capability.bitmask());
        (self.filtered, self.no_new_privileges) = (false, false);
    }

    /// Limits must be set before the user changes.
    pub(super) fn set_rlimits(&self) -> Result<(), String> {
        use libcontainer::syscall::syscall::create_syscall;
        let mut all = self.rlimits.iter();
        all.try_for_each(|limit| create_syscall().set_rlimit(limit).map_err(|error| error.to_string()))
    }

    /// Becomes a user, with every capability that the process has left in force.
    pub(super) fn become_user(&self) -> io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)?;
        nix::sys::prctl::set_keepcaps(true)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        let permitted = caps::read(None, CapSet::Permitted).map_err(cannot)?;
        caps::set(None, CapSet::Effective, &permitted).map_err(cannot)
    }

    /// Takes on capabilities and filter, as the user already. Nothing of this can be undone.
    pub(super) fn apply(&self, filter: Option<&Filter>) -> io::Result<()> {
        let filter = filter.filter(|_| self.filtered);
        let had = caps::read(None, CapSet::Bounding).map_err(cannot)?;
        let kept: CapsHashSet = had.iter().copied().filter(|it| self.capabilities & it.bitmask() != 0).collect();
        for capability in had.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(cannot)?;
        }
        // Without no_new_privs a filter needs CAP_SYS_ADMIN: it is loaded while that is still in force.
        if let Some(filter) = filter.filter(|_| !self.no_new_privileges) {
            filter.load()?;
        }
        // As execve does: capabilities are in force for root only.
        let kept = if self.uid == 0 { kept } else { HashSet::new() };
        caps::clear(None, CapSet::Ambient).map_err(cannot)?;
        caps::clear(None, CapSet::Inheritable).map_err(cannot)?;
        caps::set(None, CapSet::Effective, &kept).map_err(cannot)?;
        caps::set(None, CapSet::Permitted, &kept).map_err(cannot)?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()?;
            filter.map_or(Ok(()), Filter::load)?;
        }
        Ok(())
    }
}

fn cannot(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(format!("cannot set capabilities: {error}"))
}

fn number(capability: &OciCapability) -> Option<u8> {
    let name = capability.to_string();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    name.parse::<Capability>().ok().map(|capability| capability.index())
}
