//! What is watched of this machine and its containers: events, usage, processes, files, execs with a terminal.

use std::collections::BTreeMap;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use skep_api_types::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, FileChange, MemoryStats, NetworkStats, PathStat, PidsStats, Stats,
    ThrottlingData, Timestamp, Top,
};
use skep_engine::{ChangeKind, Extraction, UsageSample};
use skep_model::WallTime;
use tokio_util::io::SyncIoBridge;

use super::{Archive, EngineError};
use crate::events::{Happening, Happenings};

/// A stream of an archive that is being made; a failure is its last piece.
pub type Download = BoxStream<'static, io::Result<Bytes>>;

/// What can be watched of one machine.
#[async_trait]
pub trait Observe: Send + Sync + 'static {
    /// What happened on this machine and what will.
    fn happenings(&self) -> Happenings;

    /// What a container uses now; one that does not run has no numbers, and its time is zero.
    async fn stats(&self, name: &str) -> Result<Stats, EngineError>;
    /// The processes of a running container; the options are those of `ps`.
    async fn top(&self, name: &str, options: &str) -> Result<Top, EngineError>;

    /// What a container has changed of its image's files.
    async fn changes(&self, name: &str) -> Result<Vec<FileChange>, EngineError>;
    /// The root file system of a container.
    async fn export(&self, name: &str) -> Result<Download, EngineError>;
    /// What a path in a container is.
    async fn path_stat(&self, name: &str, path: &str) -> Result<PathStat, EngineError>;
    /// A path in a container, and what it is.
    async fn archive(&self, name: &str, path: &str) -> Result<(PathStat, Download), EngineError>;
    /// Unpacks into a directory of a container. `keep_kinds`: a directory is not replaced by something else, nor the other way
    /// round; `to_user`: everything belongs to the container's user.
    async fn extract(
        &self,
        name: &str,
        path: &str,
        keep_kinds: bool,
        to_user: bool,
        archive: Archive,
    ) -> Result<(), EngineError>;

    /// Bytes that a container has written, and bytes of all its files; nothing when it is gone.
    async fn container_size(&self, id: &str) -> Option<(u64, u64)>;
    /// The layers of each image, by its id: their names and bytes.
    async fn image_layers(&self) -> BTreeMap<String, Vec<(String, u64)>>;

    /// Sets rows and columns of the terminal of an exec.
    async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<(), EngineError>;
    /// A client has left an exec by its detach keys.
    fn exec_detached(&self, exec: &str);
}

#[async_trait]
impl Observe for skep_engine::Engine {
    fn happenings(&self) -> Happenings {
        let (past, receiver) = self.events();
        let coming = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.ok().map(|event| (happening(&event), receiver))
        });
        Happenings { past: past.iter().map(|event| happening(event)).collect(), coming: coming.boxed() }
    }

    async fn stats(&self, name: &str) -> Result<Stats, EngineError> {
        Ok(stats(self.usage(name).await?))
    }

    async fn top(&self, name: &str, options: &str) -> Result<Top, EngineError> {
        let top = skep_engine::Engine::top(self, name, options).await?;
        Ok(Top { processes: top.processes, titles: top.titles })
    }

    async fn changes(&self, name: &str) -> Result<Vec<FileChange>, EngineError> {
        let changes = skep_engine::Engine::changes(self, name).await?;
        let change = |change: &skep_engine::FileChange| FileChange {
            path: change.path.to_string_lossy().into_owned(),
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
        };
        Ok(changes.iter().map(change).collect())
    }

    async fn export(&self, name: &str) -> Result<Download, EngineError> {
        Ok(download(skep_engine::Engine::export(self, name)?))
    }

    async fn path_stat(&self, name: &str, path: &str) -> Result<PathStat, EngineError> {
        Ok(path_stat(skep_engine::Engine::path_stat(self, name, path).await?))
    }

    async fn archive(&self, name: &str, path: &str) -> Result<(PathStat, Download), EngineError> {
        let (stat, archive) = skep_engine::Engine::archive(self, name, path).await?;
        Ok((path_stat(stat), download(archive)))
    }

    async fn extract(
        &self,
        name: &str,
        path: &str,
        keep_kinds: bool,
        to_user: bool,
        archive: Archive,
    ) -> Result<(), EngineError> {
        let how = Extraction { keep_kinds, to_user };
        Ok(skep_engine::Engine::extract(self, name, path, how, SyncIoBridge::new(archive)).await?)
    }

    async fn container_size(&self, id: &str) -> Option<(u64, u64)> {
        self.size(id).await
    }

    async fn image_layers(&self) -> BTreeMap<String, Vec<(String, u64)>> {
        let store = skep_engine::Engine::images(self).clone();
        let images = tokio::task::spawn_blocking(move || store.list()).await.unwrap_or_default();
        let layers = |image: &skep_engine::Image| {
            let names = image.chain_ids.iter().map(ToString::to_string);
            names.zip(image.layer_sizes.iter().copied()).collect()
        };
        images.iter().map(|image| (image.id.to_string(), layers(image))).collect()
    }

    async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::exec_resize(self, exec, rows, columns).await?)
    }

    fn exec_detached(&self, exec: &str) {
        skep_engine::Engine::exec_detached(self, exec);
    }
}

fn happening(event: &skep_engine::Event) -> std::sync::Arc<Happening> {
    Happening {
        kind: event.kind.name(),
        action: event.action.clone(),
        id: event.id.clone(),
        attributes: event.attributes.clone(),
        in_cluster: false,
        at: event.at,
    }
    .into()
}

fn download(archive: skep_engine::Archive) -> Download {
    stream::unfold(archive, |mut archive| async { archive.next().await.map(|piece| (piece, archive)) }).boxed()
}

fn path_stat(stat: skep_engine::PathStat) -> PathStat {
    PathStat {
        name: stat.name,
        size: stat.size,
        mode: go_mode(stat.mode),
        mtime: Timestamp(WallTime(stat.modified_at)),
        link_target: stat.link_target,
    }
}

/// The kernel's mode as Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let flags = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = flags.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, flag)| flag).sum();
    kind | special | (mode & 0o777)
}

fn stats(sample: UsageSample) -> Stats {
    let mut stats = Stats { name: format!("/{}", sample.name), id: sample.id, ..Stats::default() };
    let Some(usage) = sample.usage else { return stats };
    let is_v1 = !usage.cpu.per_cpu.is_empty();
    stats.read = Timestamp(WallTime(sample.at));
    stats.pids_stats = PidsStats {
        current: usage.pids.unwrap_or(0),
        // Without a limit version 2 has the largest number there, and version 1 nothing.
        limit: usage.pids_limit.unwrap_or(if is_v1 { 0 } else { u64::MAX }),
    };
    let entries = |value: fn(&skep_engine::BlockIo) -> u64| {
        let entry = |it: &skep_engine::BlockIo| BlkioEntry {
            major: it.major,
            minor: it.minor,
            op: it.operation.clone(),
            value: value(it),
        };
        usage.block_io.iter().map(entry).collect::<Vec<_>>()
    };
    let others = is_v1.then(Vec::new);
    stats.blkio_stats = BlkioStats {
        io_service_bytes_recursive: Some(entries(|it| it.bytes)),
        io_serviced_recursive: if is_v1 { Some(entries(|it| it.requests)) } else { None },
        io_queue_recursive: others.clone(),
        io_service_time_recursive: others.clone(),
        io_wait_time_recursive: others.clone(),
        io_merged_recursive: others.clone(),
        io_time_recursive: others.clone(),
        sectors_recursive: others,
    };
    stats.cpu_stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: usage.cpu.total,
            percpu_usage: usage.cpu.per_cpu,
            usage_in_kernelmode: usage.cpu.kernel,
            usage_in_usermode: usage.cpu.user,
        },
        system_cpu_usage: sample.machine_cpu,
        online_cpus: sample.cpus,
        throttling_data: ThrottlingData {
            periods: usage.cpu.periods,
            throttled_periods: usage.cpu.throttled_periods,
            throttled_time: usage.cpu.throttled_time,
        },
    };
    stats.memory_stats = MemoryStats {
        usage: usage.memory.usage,
        // Version 2 of the engine's own numbers has none.
        max_usage: if is_v1 { usage.memory.max_usage.unwrap_or(0) } else { 0 },
        stats: usage.memory.stats,
        failcnt: usage.memory.failures.unwrap_or(0),
        limit: usage.memory.limit.filter(|limit| *limit < sample.machine_memory).unwrap_or(sample.machine_memory),
    };
    stats.networks = sample.interfaces.map(|interfaces| {
        let numbers = |it: skep_engine::InterfaceUsage| NetworkStats {
            rx_bytes: it.rx_bytes,
            rx_packets: it.rx_packets,
            rx_errors: it.rx_errors,
            rx_dropped: it.rx_dropped,
            tx_bytes: it.tx_bytes,
            tx_packets: it.tx_packets,
            tx_errors: it.tx_errors,
            tx_dropped: it.tx_dropped,
        };
        interfaces.into_iter().map(|(name, it)| (name, numbers(it))).collect()
    });
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_go_s() {
        assert_eq!(go_mode(0o040_755), 2_147_484_141);
        assert_eq!(go_mode(0o100_644), 420);
        assert_eq!(go_mode(0o120_777), (1 << 27) | 0o777);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
    }

    #[test]
    fn a_container_without_numbers_has_its_names() {
        let sample = UsageSample { id: "c0".to_owned(), name: "web".to_owned(), ..UsageSample::default() };
        let stats = stats(sample);
        assert_eq!((stats.name.as_str(), stats.read), ("/web", Timestamp::default()));
        let text = serde_json::to_string(&stats).unwrap();
        assert!(
            text.starts_with(r#"{"read":"0001-01-01T00:00:00Z","preread":"0001-01-01T00:00:00Z","pids_stats":{},"#)
        );
    }
}
