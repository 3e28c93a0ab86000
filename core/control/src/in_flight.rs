//! A loop's own changes that it has proposed and not yet seen committed. A loop may be stepped again before its last plan is
//! committed; with this it neither plans the same change twice nor takes the object's old state for news. Refused plans need
//! no care: [`skep_store::Event::Reset`] follows, and the loop forgets all of it.

use std::collections::BTreeMap;

use skep_model::GroupVersion;

/// Objects of which a loop has proposed to write a field group, with what it noted about each.
#[derive(Debug, Clone)]
pub struct InFlight<Id, Note = ()> {
    proposed: BTreeMap<Id, (Option<GroupVersion>, Note)>,
}

impl<Id, Note> Default for InFlight<Id, Note> {
    fn default() -> Self {
        Self { proposed: BTreeMap::new() }
    }
}

impl<Id: Ord, Note> InFlight<Id, Note> {
    /// Remembers a proposed write; `read` is the version of the group that was read, `None` for an object that does not exist
    /// yet or shall be deleted.
    pub fn propose(&mut self, id: Id, read: Option<GroupVersion>, note: Note) {
        self.proposed.insert(id, (read, note));
    }

    /// True while a proposed write of this object was not seen.
    pub fn contains(&self, id: &Id) -> bool {
        self.proposed.contains_key(id)
    }

    /// Takes the note of a write out when the object's group is seen at another version than it was read at: the write, or
    /// one that makes it lose, has committed.
    pub fn settle(&mut self, id: &Id, seen: Option<GroupVersion>) -> Option<Note> {
        let (read, _) = self.proposed.get(id)?;
        if *read == seen {
            return None;
        }
        self.proposed.remove(id).map(|(_, note)| note)
    }

    /// True when nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proposed.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.proposed.clear();
    }
}
