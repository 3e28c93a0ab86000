//! What can be watched of the fake machine.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use skep_api_types::{FileChange, PathStat, Stats, Timestamp, Top};
use skep_http_api::{Archive, Download, EngineError, ErrorKind, Happening, Happenings, Observe};
use skep_model::WallTime;
use tokio::io::AsyncReadExt as _;

use super::FakeEngine;

fn happening(action: &str, at: i64) -> Happening {
    Happening {
        kind: "container",
        action: action.to_owned(),
        id: "ab".repeat(32),
        attributes: [("image", "busybox"), ("name", "web.1.x")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        in_cluster: false,
        at,
    }
}

#[async_trait]
impl Observe for FakeEngine {
    /// Created at second 10, started at 20, and it ends as soon as somebody listens.
    fn happenings(&self) -> Happenings {
        let past = [("create", 10), ("start", 20)].map(|(action, at)| happening(action, at * 1_000_000_000).into());
        let coming = stream::iter([happening("die", 30_000_000_000).into()]).chain(stream::pending()).boxed();
        Happenings { past: past.into(), coming }
    }
    /// Every call a second later, with a second of processor time more.
    async fn stats(&self, name: &str) -> Result<Stats, EngineError> {
        let calls = self.calls.lock().unwrap().len() as u64 + 1;
        self.did(format!("stats {name}"))?;
        let mut stats = Stats { id: "ab".repeat(32), name: "/web.1.x".to_owned(), ..Stats::default() };
        stats.read = Timestamp(WallTime(calls as i64 * 1_000_000_000));
        stats.cpu_stats.cpu_usage.total_usage = calls * 1_000_000_000;
        Ok(stats)
    }
    async fn top(&self, name: &str, options: &str) -> Result<Top, EngineError> {
        self.did(format!("top {name} {options}"))?;
        Ok(Top { titles: vec!["PID".to_owned()], processes: vec![vec!["1".to_owned()]] })
    }
    async fn changes(&self, _name: &str) -> Result<Vec<FileChange>, EngineError> {
        Ok(vec![FileChange { path: "/data".to_owned(), kind: 1 }])
    }
    async fn export(&self, _name: &str) -> Result<Download, EngineError> {
        Ok(stream::iter([Ok(Bytes::from_static(b"tar"))]).boxed())
    }
    async fn path_stat(&self, name: &str, path: &str) -> Result<PathStat, EngineError> {
        if path == "/nosuch" {
            let text = format!("Could not find the file /nosuch in container {name}");
            return Err(EngineError::new(ErrorKind::NotFound, text));
        }
        Ok(PathStat { name: "f.txt".to_owned(), size: 10, mode: 420, ..PathStat::default() })
    }
    async fn archive(&self, name: &str, path: &str) -> Result<(PathStat, Download), EngineError> {
        Ok((self.path_stat(name, path).await?, self.export(name).await?))
    }
    async fn extract(
        &self,
        name: &str,
        path: &str,
        keep_kinds: bool,
        to_user: bool,
        mut archive: Archive,
    ) -> Result<(), EngineError> {
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).await.map_err(|e| EngineError::new(ErrorKind::Invalid, e.to_string()))?;
        self.did(format!("extract {name} {path} {keep_kinds} {to_user} {}", bytes.len()))
    }
    async fn container_size(&self, _id: &str) -> Option<(u64, u64)> {
        Some((0, 100))
    }
    async fn image_layers(&self) -> BTreeMap<String, Vec<(String, u64)>> {
        let layers = |own: &str| vec![("base".to_owned(), 100), (own.to_owned(), 5)];
        [(format!("sha256:{}", "cd".repeat(32)), layers("one")), ("sha256:other".to_owned(), layers("two"))].into()
    }
    async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        self.did(format!("resize {exec} {rows} {columns}"))
    }
    fn exec_detached(&self, exec: &str) {
        self.did(format!("detached {exec}")).unwrap();
    }
}
