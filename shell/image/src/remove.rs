//! `docker rmi`: taking names away and, with the last one, the image. The rules and texts are those of moby's
//! `daemon/images/image_delete.go`.

use crate::digest::ImageId;
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::store::{ImageStore, State, id_prefix};
use crate::table::Table;

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its id, whole or shortened.
    pub container_id: String,
    /// Whether it runs; a paused one does.
    pub running: bool,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone (familiar form).
    Untagged(String),
    /// An image or a layer is gone (`sha256:` and its id or chain id).
    Deleted(String),
}

#[derive(Clone, Copy)]
struct Checks {
    references: bool,
    stopped: bool,
}

impl ImageStore {
    /// Removes a name, or an image by its id. `is_used` names a container that uses the image, a running one first; it is asked
    /// under the store's lock and must not call back.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or [`Error::Conflict`] with Docker's text.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        is_used: impl Fn(&ImageId) -> Option<ContainerUse>,
    ) -> Result<Vec<Removed>> {
        let mut state = self.state();
        let id = state.require(name)?;
        let mut removal = Removal { id, table: state.table.clone(), done: Vec::new() };
        let delete = removal.run(name, force, &is_used)?;
        removal.table.write(self.layout())?;
        state.table = removal.table;
        if delete {
            state.configs.remove(&id);
            // The image is gone whatever happens now; what cannot be deleted is collected later.
            match self.collect(&mut state) {
                Ok(layers) => removal.done.extend(layers.iter().map(|chain| Removed::Deleted(chain.to_string()))),
                Err(error) => tracing::warn!(image.id = %id, %error, "cannot delete all content of a removed image"),
            }
        }
        Ok(removal.done)
    }

    /// Ids of the images that have no name.
    pub fn dangling(&self) -> Vec<ImageId> {
        let state: &State = &self.state();
        state.table.images.keys().filter(|id| state.table.names_of(**id).is_empty()).copied().collect()
    }
}

struct Removal {
    id: ImageId,
    table: Table,
    done: Vec<Removed>,
}

impl Removal {
    /// Changes the table; says whether the image itself goes.
    fn run(&mut self, name: &str, force: bool, is_used: &dyn Fn(&ImageId) -> Option<ContainerUse>) -> Result<bool> {
        let used = is_used(&self.id);
        let by_name = !is_id_prefix(self.id, name);
        if by_name {
            if let (false, true, Some(user)) = (force, self.is_single_reference(), &used) {
                return Err(Error::Conflict(format!(
                    "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
                    short(&user.container_id),
                    self.id.short()
                )));
            }
            self.untag_by_name(name)?;
            if !self.references().is_empty() {
                return Ok(false);
            }
        } else if self.is_single_reference() {
            self.check(Checks { references: false, stopped: !force }, used.as_ref())?;
            self.untag_all();
        }
        if let Err(conflict) = self.check(Checks { references: !force, stopped: !force }, used.as_ref()) {
            // The name was removed as asked; that a container still needs the image is no failure of that.
            return if by_name && used.is_some() { Ok(false) } else { Err(conflict) };
        }
        self.untag_all();
        self.table.images.remove(&self.id);
        self.done.push(Removed::Deleted(self.id.to_string()));
        Ok(true)
    }

    fn references(&self) -> Vec<Reference> {
        self.table.names_of(self.id).iter().filter_map(|name| Reference::parse(name).ok()).collect()
    }

    /// At most one tag, and digests of the same repository only.
    fn is_single_reference(&self) -> bool {
        let references = self.references();
        if references.len() <= 1 {
            return true;
        }
        let tags: Vec<&Reference> = references.iter().filter(|reference| reference.digest().is_none()).collect();
        let first = tags.first().copied().unwrap_or(&references[0]).name();
        tags.len() <= 1 && references.iter().all(|reference| reference.name() == first)
    }

    fn untag(&mut self, reference: &Reference) {
        self.table.references.remove(&reference.to_string());
        self.done.push(Removed::Untagged(reference.familiar()));
    }

    fn untag_all(&mut self) {
        for reference in self.references() {
            self.untag(&reference);
        }
    }

    fn untag_by_name(&mut self, name: &str) -> Result<()> {
        let mut reference = Reference::parse(name)?.with_default_tag();
        if let Some(digest) = reference.digest() {
            reference = reference.with_digest(digest);
        }
        self.untag(&reference);
        let rest = self.references();
        let has_tag = rest.iter().any(|other| other.digest().is_none() && other.name() == reference.name());
        if reference.digest().is_none() && !has_tag {
            for digest in rest.iter().filter(|other| other.digest().is_some() && other.name() == reference.name()) {
                self.untag(digest);
            }
        }
        Ok(())
    }

    fn check(&self, checks: Checks, used: Option<&ContainerUse>) -> Result<()> {
        let conflict = |hard: bool, reason: String| {
            let force = if hard { "cannot be forced" } else { "must be forced" };
            Err(Error::Conflict(format!("conflict: unable to delete {} ({force}) - {reason}", self.id.short())))
        };
        if let Some(user) = used.filter(|user| user.running) {
            return conflict(true, format!("image is being used by running container {}", short(&user.container_id)));
        }
        if checks.references && !self.references().is_empty() {
            return conflict(false, "image is referenced in multiple repositories".to_owned());
        }
        match used {
            Some(user) if checks.stopped => {
                conflict(false, format!("image is being used by stopped container {}", short(&user.container_id)))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the user named the image by its id, not by a name that happens to look like one.
fn is_id_prefix(id: ImageId, name: &str) -> bool {
    id_prefix(name).is_some_and(|prefix| id.0.hex().starts_with(prefix))
}

fn short(container_id: &str) -> &str {
    container_id.get(..12).unwrap_or(container_id)
}
