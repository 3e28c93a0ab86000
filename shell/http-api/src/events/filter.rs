//! Which events a listener wants (`daemon/events/filter.go`). Unknown keys narrow nothing, as in Docker.

use skep_api_types::Filters;

use super::Happening;

/// Keys that are compared with the beginning of an object's id or name, whatever the kind of the object.
const NAMES: [&str; 9] = ["daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config"];
/// Actions with a colon and more behind their name.
const FUZZY: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// What of all that happens is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct EventFilter(pub(crate) Filters);

impl EventFilter {
    pub(crate) fn pass(&self, happening: &Happening) -> bool {
        self.0.is_empty()
            || (self.action(&happening.action)
                && self.0.any("type", |kind| kind == happening.kind)
                && self.0.any("scope", |scope| scope == happening.scope())
                && NAMES.iter().all(|key| self.named(key, happening))
                && self.image(happening)
                && self.0.labels("label", &happening.attributes))
    }

    fn action(&self, action: &str) -> bool {
        let fuzzy = self.0.values("event").is_some_and(|all| FUZZY.iter().any(|name| all.contains(*name)));
        self.0.any("event", |wanted| action == wanted || (fuzzy && action.starts_with(wanted.as_str())))
    }

    fn named(&self, key: &str, happening: &Happening) -> bool {
        let name = happening.attributes.get("name").map_or("", String::as_str);
        self.0.any(key, |wanted| happening.id.starts_with(wanted.as_str()) || name.starts_with(wanted.as_str()))
    }

    /// An image itself, or a container of it; the tag may be left out.
    fn image(&self, happening: &Happening) -> bool {
        let key = if happening.kind == "image" { "name" } else { "image" };
        let name = happening.attributes.get(key).map_or("", String::as_str);
        self.0.any("image", |wanted| {
            [happening.id.as_str(), name].into_iter().any(|known| wanted == known || wanted == without_tag(known))
        })
    }
}

/// A reference without its tag and digest; what is no reference stays.
fn without_tag(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> EventFilter {
        EventFilter(Filters::parse_any(Some(text)).unwrap())
    }

    #[test]
    fn every_key_must_hold() {
        let start = Happening {
            kind: "container",
            action: "exec_start: sh ".to_owned(),
            id: "c0ffee".to_owned(),
            attributes: [("name", "web.1"), ("image", "reg:5000/box:1"), ("a", "b")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            in_cluster: false,
            at: 0,
        };
        for (text, passes) in [
            (r#"{"type":["container"],"event":["exec_start"]}"#, true),
            (r#"{"event":["exec"]}"#, false),
            (r#"{"type":["image"]}"#, false),
            (r#"{"scope":["swarm"]}"#, false),
            (r#"{"container":["web"],"label":["a=b"]}"#, true),
            (r#"{"container":["c0"],"label":["a=c"]}"#, false),
            (r#"{"image":["reg:5000/box"]}"#, true),
            (r#"{"image":["reg:5000/box:1"]}"#, true),
            (r#"{"image":["box"]}"#, false),
            (r#"{"service":["web"]}"#, true),
            (r#"{"service":["api"]}"#, false),
            (r#"{"bogus":["1"]}"#, true),
        ] {
            assert_eq!(filter(text).pass(&start), passes, "{text}");
        }
    }
}
