//! One machine's containers: makes them from images, starts and stops them, tells what became of them, reads their logs,
//! runs further programs in them. Implements the agent's [`Executor`](skep_agent::Executor) with `oci`, `image` and
//! `network`, and serves what the HTTP API asks of one machine.
//!
//! ```text
//!  Executor ─▶ prepare ─▶ start ─▶ (shim runs) ─▶ end ─▶ remove
//!                │          │                      │
//!         containers/<id>/  └─ publish: enters the published ports when it runs, leaves them before its stop signal
//!           container.json      (written last when prepared, deleted first when removed)
//!           bundle/             (shim.json, pid.json, exit.json: what `oci` and its shim know)
//!           <id>-json.log
//! ```
//!
//! Containers outlive the engine. Everything it knows can be read back from disk and from what is alive; what was half made
//! or half removed when an earlier engine ended is swept by the next [`Engine::open`]. It decides nothing about tasks: the
//! agent does.

mod attach;
mod blueprint;
mod by_hand;
mod container;
mod contents;
mod ending;
mod engine;
mod error;
mod etc_files;
mod events;
mod exec;
mod executor;
mod facts;
mod files;
mod health;
mod images;
mod info;
mod join;
mod layout;
mod lifecycle;
mod logs;
mod names;
mod networks;
mod publish;
mod record;
mod restart;
mod storage;
mod sweep;
mod table;
mod task_image;
mod tell;
mod top;
mod update;
mod usage;
mod view;
mod volumes;

pub use attach::Attached;
pub use blueprint::{More, Share, Wanted};
pub use by_hand::{PruneFilter, Pruned};
pub use ending::{Ended, WaitCondition};
pub use engine::{Engine, EngineConfig, ImageRemoval};
pub use error::{EngineError, ErrorClass};
pub use events::{Event, EventKind};
pub use exec::{ExecOptions, ExecState, ExecStreams};
pub use files::{Archive, ChangeKind, Extraction, FileChange, PathStat};
pub use health::{Health, HealthCheck, HealthResult, HealthStatus};
pub use info::EngineInfo;
pub use logs::{LogLine, LogOptions, LogReader, LogStream, parse_time};
pub use networks::{GATEWAY_NETWORK, LocalNetwork, NewNetwork, predefined_id};
pub use record::{Asked, ByHand, FileRecord, MountRecord, NetworkRecord, PortRecord, Record, TaskRecord, VolumeMount};
pub use restart::{RestartKind, RestartPolicy};
pub use skep_image::{Image, ImageId, ImageStore, RegistryConfig};
pub use skep_network::{Bridge, MAIN};
pub use skep_oci::{Attachment, BlockIo, Device, DeviceLimit, Resources, RootFs};
pub use storage::PrunedVolumes;
pub use top::Top;
pub use update::Update;
pub use usage::{InterfaceUsage, UsageSample};
pub use view::{ContainerState, ContainerView};
pub use volumes::{ANONYMOUS_LABEL, Volume, VolumeRecord, VolumeRequest};
