//! Events of containers, with the attributes that Docker gives all of them: labels, image and name.

use skep_oci::ExitRecord;

use crate::container::Container;
use crate::engine::Inner;
use crate::events::EventKind;

/// No further attributes.
pub(crate) const NOTHING: [(&str, &str); 0] = [];

impl Inner {
    /// Tells what happened to a container; `more` goes on top of what every event of it has.
    pub(crate) fn tell<'a, V: Into<String>>(
        &self,
        container: &Container,
        action: impl Into<String>,
        more: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        let record = &container.record;
        let labels = record.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
        let own = [("image".to_owned(), record.image.clone()), ("name".to_owned(), container.name())];
        let more = more.into_iter().map(|(key, value)| (key.to_owned(), value.into()));
        self.events.publish(EventKind::Container, action, &record.id, labels.chain(own).chain(more));
    }

    /// Tells that a run has ended.
    pub(crate) fn tell_end(&self, container: &Container, record: &ExitRecord) {
        if record.oom_killed {
            self.tell(container, "oom", NOTHING);
        }
        let seconds = crate::restart::ran(record).as_secs();
        let more = [("exitCode", record.exit_code.to_string()), ("execDuration", seconds.to_string())];
        self.tell(container, "die", more);
    }
}
