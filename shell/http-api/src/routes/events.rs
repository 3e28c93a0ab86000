//! `GET /events`: what happened and what happens, of this machine and of the cluster in one stream.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderValue;
use skep_api_types::{Filters, event_time};
use skep_model::WallTime;

use crate::body::Params;
use crate::events::{EventFilter, Happening};
use crate::hijack::streaming;
use crate::routes::system::now;
use crate::{Api, ApiError};

pub(crate) async fn watch(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let time = |name| event_time(query.get(name)).map_err(|error| ApiError::internal(error.to_string()));
    let (since, until) = (time("since")?, time("until")?);
    if until.is_some_and(|until| until < since.unwrap_or(until)) {
        let text = |name| query.get(name).unwrap_or_default();
        let (since, until) = (text("since"), text("until"));
        return Err(ApiError::invalid(format!("`since` time ({since}) cannot be after `until` time ({until})")));
    }
    let filter = EventFilter(Filters::parse_any(query.get("filters"))?);
    let (machine, cluster) = (api.engine.happenings(), api.cluster.happenings());
    let mut past: Vec<Arc<Happening>> = Vec::new();
    if since.is_some() || until.is_some() {
        let is_wanted = |happening: &&Arc<Happening>| {
            let at = WallTime(happening.at);
            since.is_none_or(|since| at >= since) && until.is_none_or(|until| at <= until) && filter.pass(happening)
        };
        past.extend(machine.past.iter().chain(&cluster.past).filter(is_wanted).cloned());
        past.sort_by_key(|happening| happening.at);
    }
    let past = stream::iter(past.into_iter().map(|happening| line(&happening)));
    let media_type = HeaderValue::from_static("application/json");
    let rest = match until {
        Some(until) if until <= now() => return Ok(streaming(media_type, past.boxed())),
        Some(until) => Some(Duration::from_nanos(u64::try_from(until.0 - now().0).unwrap_or(0))),
        None => None,
    };
    // Who is too slow for one of the two is dropped from both.
    let ended =
        |events: stream::BoxStream<'static, Arc<Happening>>| events.map(Some).chain(stream::once(async { None }));
    let coming = stream::select(ended(machine.coming), ended(cluster.coming))
        .take_while(|happening| std::future::ready(happening.is_some()))
        .filter_map(move |happening| {
            std::future::ready(happening.filter(|happening| filter.pass(happening)).map(|happening| line(&happening)))
        })
        .take_until(async move {
            match rest {
                Some(rest) => tokio::time::sleep(rest).await,
                None => std::future::pending().await,
            }
        });
    Ok(streaming(media_type, past.chain(coming).boxed()))
}

fn line(happening: &Happening) -> Bytes {
    let mut line = serde_json::to_vec(&happening.message()).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
