//! Secrets. Their data goes in and never comes out.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use skep_api_types::{DataCreated, DataObject, DataSpec, Driver};
use skep_model::{self as model, ObjectId as _};

use crate::body::{Asked, Json, Params, empty, json, list as json_list, ok};
use crate::cluster::{Edit, NewSecret};
use crate::routes::{require_manager, snapshot};
use crate::{Api, ApiError, lookup};

const FILTERS: [&str; 4] = ["id", "name", "names", "label"];

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let picture = snapshot(&api).await?;
    let secrets = picture.secrets().filter(|secret| {
        filters.any_prefix("id", secret.id.as_str())
            && filters.any_prefix("name", &secret.spec.name)
            && filters.any("names", |name| *name == secret.spec.name)
            && filters.labels("label", &secret.spec.labels)
    });
    Ok(json_list(secrets.map(|secret| DataObject::of_secret(secret))))
}

pub(crate) async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    Ok(ok(&DataObject::of_secret(lookup::secret(&picture, &name)?)))
}

pub(crate) async fn create(
    State(api): State<Api>,
    Asked(version): Asked,
    Json(mut spec): Json<DataSpec<'static>>,
) -> Result<Response, ApiError> {
    require_manager(&api)?;
    spec.adjust_for(version);
    let new = NewSecret {
        name: spec.name.into_owned(),
        labels: spec.labels.into_owned(),
        data: spec.data.into_owned(),
        templating: spec.templating.map(Driver::into_model),
        driver: spec.driver.map(Driver::into_model),
    };
    let id = api.cluster.create_secret(new).await?;
    Ok(json(StatusCode::CREATED, &DataCreated { id: id.to_string() }))
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
    Json(spec): Json<DataSpec<'static>>,
) -> Result<Response, ApiError> {
    let version = object_version("secret", &query)?;
    let picture = snapshot(&api).await?;
    let secret = lookup::secret(&picture, &name)?.id;
    api.cluster.update_secret(secret, version, edit(spec)).await?;
    Ok(empty())
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    api.cluster.remove_secret(lookup::secret(&picture, &name)?.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The version in the query; the text is Docker's for these two kinds.
pub(super) fn object_version(kind: &'static str, query: &Params) -> Result<model::Version, ApiError> {
    skep_api_types::version_index(kind, query.get("version"))
        .map_err(|_| ApiError::invalid(format!("invalid {kind} version")))
}

/// No data at all and empty data are the same, as in Docker.
pub(super) fn edit(spec: DataSpec<'_>) -> Edit {
    let data = (!spec.data.is_empty()).then(|| spec.data.into_owned());
    Edit { name: spec.name.into_owned(), labels: spec.labels.into_owned(), data }
}
