//! What can be watched of the fake machine.

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use skep_http_api::{Happening, Happenings, Observe};

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
}
