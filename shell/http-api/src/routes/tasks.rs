//! Tasks.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Serialize, Serializer};
use skep_api_types::{FilterError, Filters, NetworkAttachment, Task};
use skep_model::{self as model, DesiredState, NodeId, ObjectId as _, ServiceId, TaskState};
use skep_store::State as Picture;

use crate::body::{Asked, Params, list as json_list, ok};
use crate::cluster::LogSelector;
use crate::hijack::{media_type, streaming};
use crate::logs::{self, task_lines};
use crate::routes::snapshot;
use crate::{Api, ApiError, lookup};

const FILTERS: [&str; 8] = ["id", "name", "service", "node", "label", "desired-state", "runtime", "_up-to-date"];

/// A task that is rendered when it is written: its status is made on the way.
struct Rendered<'a>(&'a Picture, &'a model::Task);

impl Serialize for Rendered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(picture, task) = *self;
        let status = task.status();
        let mut rendered = Task::of(task, picture.spec_of(task), &status);
        let attachment = |place: &model::TaskNetwork| {
            NetworkAttachment::of(picture.network(place.network).map(|network| &**network), place)
        };
        rendered.networks_attachments = task.attachment.networks.iter().map(attachment).collect();
        rendered.serialize(serializer)
    }
}

/// The filters with their names looked up.
struct Narrowed<'a> {
    filters: &'a Filters,
    services: Option<BTreeSet<ServiceId>>,
    nodes: Option<BTreeSet<NodeId>>,
    up_to_date: Option<bool>,
}

impl<'a> Narrowed<'a> {
    fn new(picture: &Picture, filters: &'a Filters) -> Result<Self, ApiError> {
        for wanted in filters.values("desired-state").into_iter().flatten() {
            let known = |state: &TaskState| state.name() == wanted && DesiredState::from_state(*state).is_some();
            if !TaskState::ALL.iter().any(known) {
                return Err(FilterError::Value { key: "desired-state".to_owned(), value: wanted.clone() }.into());
            }
        }
        let service = |name: &String| Ok::<_, ApiError>(lookup::service(picture, name)?.id);
        let node = |name: &String| Ok::<_, ApiError>(lookup::node(picture, name)?.id);
        Ok(Self {
            filters,
            services: filters.values("service").map(|names| names.iter().map(service).collect()).transpose()?,
            nodes: filters.values("node").map(|names| names.iter().map(node).collect()).transpose()?,
            up_to_date: filters.boolean("_up-to-date")?,
        })
    }

    fn passes(&self, picture: &Picture, task: &model::Task) -> bool {
        let spec = picture.spec_of(task);
        self.services.as_ref().is_none_or(|services| services.contains(&task.service_id))
            && self.nodes.as_ref().is_none_or(|nodes| task.node().is_some_and(|node| nodes.contains(&node)))
            && self.filters.any_prefix("id", task.id.as_str())
            && self.filters.any("name", |name| task_name(spec, task).starts_with(name.as_str()))
            && self.filters.labels("label", &spec.labels)
            && self.filters.any("desired-state", |state| state == task.intent.desired.as_state().name())
            && self.filters.any("runtime", |runtime| runtime == "container")
            && self.up_to_date.is_none_or(|wanted| wanted == picture.is_up_to_date(task))
    }
}

/// The name of a task's container.
fn task_name(spec: &model::ServiceSpec, task: &model::Task) -> String {
    format!("{}.{}.{}", spec.name, task.slot, task.id)
}

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let picture = snapshot(&api).await?;
    let narrowed = Narrowed::new(&picture, &filters)?;
    let render = |task| Rendered(&picture, task);
    // Tasks of one service are found by an index.
    if let Some(services) = narrowed.services.as_ref().filter(|services| services.len() == 1)
        && let Some(service) = services.first().copied()
    {
        let tasks = picture.tasks_of_service(service).filter(|task| narrowed.passes(&picture, task));
        return Ok(json_list(tasks.map(|task| render(task))));
    }
    let tasks = picture.tasks().filter(|task| narrowed.passes(&picture, task));
    Ok(json_list(tasks.map(|task| render(task))))
}

pub(crate) async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    let task = lookup::task(&picture, &name)?;
    Ok(ok(&Rendered(&picture, task)))
}

pub(crate) async fn logs(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let options = logs::options(&query)?;
    let picture = snapshot(&api).await?;
    let task = lookup::task(&picture, &name)?;
    let tty = picture.spec_of(task).task.container.tty;
    let selector = LogSelector { services: Vec::new(), tasks: vec![task.id] };
    let lines = api.cluster.service_logs(selector, options).await?;
    Ok(streaming(media_type(version, tty), task_lines(lines, logs::style(&query, tty))))
}
