//! `skep image`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use clap::Subcommand;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::http::{Api, Body};
use super::{say, table};

/// Bytes sent at a time.
const CHUNK: usize = 1 << 16;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Load images from a tar archive, as `docker save` writes it
    Load {
        /// The archive [default: standard input]
        #[arg(short, long)]
        input: Option<PathBuf>,
    },
    /// List images
    Ls,
}

pub(crate) async fn run(api: &Api, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Load { input } => load(api, input).await,
        Verb::Ls => list(api).await,
    }
}

async fn load(api: &Api, input: Option<PathBuf>) -> anyhow::Result<()> {
    let body = match input {
        Some(path) => {
            let file = tokio::fs::File::open(&path).await;
            stream(file.with_context(|| format!("cannot open the archive {}", path.display()))?)
        }
        None => stream(tokio::io::stdin()),
    };
    let answer = api.send(Method::POST, "/images/load?quiet=1", Some("application/x-tar"), body).await?;
    for message in serde_json::Deserializer::from_slice(&answer).into_iter::<Value>() {
        let message = message.context("the daemon's progress is not JSON")?;
        if let Some(error) = message["error"].as_str() {
            bail!("{error}");
        }
        if let Some(text) = message["stream"].as_str() {
            say(text.trim_end());
        }
    }
    Ok(())
}

fn stream(reader: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    let frames = futures_util::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = reader.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (Frame::data(Bytes::from(chunk)), reader)))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

async fn list(api: &Api) -> anyhow::Result<()> {
    let images = api.get("/images/json").await?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut rows = Vec::new();
    for image in images.as_array().map(Vec::as_slice).unwrap_or_default() {
        let tags: Vec<_> = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for tag in if tags.is_empty() { vec!["<none>:<none>"] } else { tags } {
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            rows.push(vec![
                name.to_owned(),
                tag.to_owned(),
                table::short(image["Id"].as_str().unwrap_or_default()),
                table::ago_seconds(now - image["Created"].as_i64().unwrap_or(now)),
                format!("{:.1}MB", image["Size"].as_f64().unwrap_or(0.0) / 1e6),
            ]);
        }
    }
    table::print(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows);
    Ok(())
}
