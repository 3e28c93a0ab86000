//! Events of containers, with the attributes Docker gives all of them: labels, image and name.

use crate::container::Container;
use crate::engine::Inner;
use crate::events::EventKind;

impl Inner {
    /// Tells what happened to a container; `more` goes on top of what every event of it has.
    pub(crate) fn tell<'a>(
        &self,
        container: &'a Container,
        action: impl Into<String>,
        more: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let record = &container.record;
        let labels = record.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let own = [("image", record.image.as_str()), ("name", record.name.as_str())];
        self.events.publish(EventKind::Container, action, &record.id, labels.chain(own).chain(more));
    }
}
