//! Starts, holds, stops and cleans up one container process: namespaces, cgroups v1 and v2, mounts, seccomp,
//! capabilities. It knows nothing of images, networks or clusters.
//!
//! ```text
//!  daemon (tokio)                          one shim per container (single thread, no tokio)
//!  ShimLaunch::spawn ──▶ `skep shim DIR` ─▶ create (libcontainer) ─▶ hold: logs, reaping, socket ─▶ exit.json
//!  ShimClient ◀────────── shim.sock ───────────────────────────────────┘
//!  Bundle::status / cleanup ◀── pid.json, exit.json (what a restarted daemon reads)
//! ```
//! The engine writes a [`ContainerConfig`] into a bundle directory and launches a shim for it; the `skep` binary
//! calls [`shim_main`] before it starts anything else when its first argument is `shim`.
#![allow(unsafe_code, reason = "this crate is where processes, namespaces and descriptors are made")]

mod attachment;
mod bundle;
mod cgroup;
mod client;
mod config;
mod host;
mod limits;
mod memory;
mod process;
mod protocol;
mod record;
mod rootfs;
mod shim;
mod spec;
mod stage;
mod usage;

pub use attachment::{AttachEnds, Attachment, attachment};
pub use bundle::{Bundle, BundleError, Status};
pub use cgroup::{CgroupMode, Cgroups};
pub use client::{ClientError, Exec, ExecExit, ExecWait, Running, ShimClient, ShimLaunch, StartError};
pub use config::{
    BindPropagation, CONFIG_VERSION, ConfigError, ContainerConfig, Device, DeviceLimit, ExecConfig, LogConfig,
    LogFormat, Mount, Namespace, NetworkNamespace, Resources, Rlimit, RootFs, Seccomp,
};
pub use host::HostInfo;
pub use limits::set_limits;
pub use memory::{MemoryFile, MemoryFiles};
pub use process::ProcessId;
pub use protocol::{Phase, State};
pub use record::{ExitRecord, Pids};
pub use shim::shim_main;
pub use spec::{SpecError, build_spec};
pub use usage::{BlockIo, CpuUsage, MemoryUsage, Usage, usage};
