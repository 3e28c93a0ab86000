//! Images as the engine has them: every change of the store that people or tasks cause goes through here, so that it is told as
//! an event, and so that what containers use stays.

use std::io::{Read, Write};
use std::sync::Arc;

use skep_image::{
    Credentials, Distribution, Image, ImageId, Import, Loaded, Login, Progress, Pruned, PullOptions, PullProgress,
    Pulled, Reference, Registries, Removed, Saving,
};

use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::events::EventKind;

impl Engine {
    /// Pulls one image. Dropping the call ends it, unless others wait for the same layers.
    ///
    /// # Errors
    /// In Docker's words.
    pub async fn pull(&self, name: &Reference, options: &PullOptions, progress: &PullProgress) -> Result<Pulled> {
        self.inner.pull(name, options, progress).await
    }

    /// All tags that a registry has of a repository.
    ///
    /// # Errors
    /// In Docker's words.
    pub async fn registry_tags(&self, name: &Reference, credentials: &Credentials) -> Result<Vec<String>> {
        Ok(self.registries().tags(name, credentials).await?)
    }

    /// Pushes the image of this name and tag.
    ///
    /// # Errors
    /// In Docker's words.
    pub async fn push(&self, name: &Reference, credentials: &Credentials, progress: &PullProgress) -> Result<()> {
        self.registries().push(name, credentials, progress).await?;
        self.inner.image_event("push", name.familiar(), &name.familiar_name(), None);
        Ok(())
    }

    /// What a registry knows of a reference.
    ///
    /// # Errors
    /// In Docker's words.
    pub async fn distribution(&self, name: &Reference, credentials: &Credentials) -> Result<Distribution> {
        Ok(self.registries().inspect(name, credentials).await?)
    }

    /// Proves credentials to a registry.
    ///
    /// # Errors
    /// They are wrong, or it cannot be reached.
    pub async fn log_in(&self, address: &str, credentials: &Credentials) -> Result<Login> {
        Ok(self.registries().log_in(address, credentials).await?)
    }

    fn registries(&self) -> &Registries {
        &self.inner.registries
    }

    /// Gives an image another name. Blocks.
    ///
    /// # Errors
    /// As [`skep_image::ImageStore::tag`].
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let id = self.inner.images.tag(source, target)?;
        let name = target.clone().with_default_tag().familiar();
        self.inner.image_event("tag", id.to_string(), &name, self.inner.images.get(&id.to_string()).as_ref());
        Ok(())
    }

    /// Takes in the images of an archive. Blocks.
    ///
    /// # Errors
    /// The archive is refused; nothing of it stays.
    pub fn load(&self, archive: impl Read, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Loaded>> {
        let loaded = self.inner.images.load(archive, progress)?;
        let mut ids: Vec<ImageId> = loaded.iter().map(|image| image.image_id).collect();
        ids.dedup();
        self.inner.tell_images("load", &ids);
        Ok(loaded)
    }

    /// Makes an image of a root file system. Blocks.
    ///
    /// # Errors
    /// The archive is refused; nothing of it stays.
    pub fn import(&self, archive: impl Read, import: &Import) -> Result<ImageId> {
        let id = self.inner.images.import(archive, import, &mut |_| ())?;
        if let Some(name) = &import.name {
            let image = self.inner.images.get(&id.to_string());
            let name = name.clone().with_default_tag().familiar();
            self.inner.image_event("tag", id.to_string(), &name, image.as_ref());
        }
        self.inner.tell_images("import", &[id]);
        Ok(id)
    }

    /// Finds images that are to be saved. Blocks.
    ///
    /// # Errors
    /// `No such image: ...`.
    pub fn save(&self, names: &[String]) -> Result<Saving> {
        Ok(self.inner.images.save(names)?)
    }

    /// Writes them. Blocks.
    ///
    /// # Errors
    /// The writer fails.
    pub fn write_saved(&self, saving: &Saving, out: impl Write) -> Result<()> {
        saving.write(out)?;
        self.inner.tell_images("save", &saving.ids());
        Ok(())
    }

    /// Removes images that no container uses: those without a tag, or with `all` any of them.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn prune_images(&self, all: bool, wanted: impl Fn(&Image) -> bool + Send + 'static) -> Result<Pruned> {
        let inner = self.inner.clone();
        let work = move || {
            let pruned = inner.images.prune(all, wanted, |image| inner.user_of(image))?;
            for (id, removed) in &pruned.removed {
                inner.tell_removed(*id, removed, None);
            }
            let reclaimed = pruned.reclaimed.to_string();
            inner.events.publish(EventKind::Image, "prune", "", [("reclaimed", reclaimed)]);
            Ok(pruned)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Closing)?
    }

    /// Removes a name of an image, or the image, unless a container uses it.
    ///
    /// # Errors
    /// With Docker's texts.
    pub async fn remove_image(&self, name: String, force: bool) -> Result<Vec<Removed>> {
        let inner = self.inner.clone();
        let work = move || {
            let image = inner.images.require(&name)?;
            let removed = inner.images.remove(&name, force, |image| inner.user_of(image))?;
            for one in &removed {
                inner.tell_removed(image.id, one, Some(&image));
            }
            Ok(removed)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Closing)?
    }
}

impl Inner {
    /// Pulls an image and tells of it.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        name: &Reference,
        options: &PullOptions,
        progress: &PullProgress,
    ) -> Result<Pulled> {
        let pulled = self.registries.pull(name, options, progress).await?;
        let name = name.clone().with_default_tag();
        let image = self.images.get(&pulled.id.to_string());
        self.image_event("pull", name.familiar(), &name.familiar_name(), image.as_ref());
        Ok(pulled)
    }

    fn tell_images(&self, action: &str, ids: &[ImageId]) {
        for id in ids {
            let id = id.to_string();
            self.image_event(action, id.clone(), &id, self.images.get(&id).as_ref());
        }
    }

    fn tell_removed(&self, id: ImageId, removed: &Removed, image: Option<&Image>) {
        match removed {
            Removed::Untagged(_) => self.image_event("untag", id.to_string(), &id.to_string(), image),
            // Layers go with their image and are no event.
            Removed::Deleted(gone) if *gone == id.to_string() => {
                self.image_event("delete", id.to_string(), &id.to_string(), None);
            }
            Removed::Deleted(_) => {}
        }
    }

    /// As in Docker, an event of an image shows the image's labels.
    fn image_event(&self, action: &str, id: String, name: &str, image: Option<&Image>) {
        let labels = image.and_then(|image| image.config.config.labels.clone()).unwrap_or_default();
        let name = ("name".to_owned(), name.to_owned());
        self.events.publish(EventKind::Image, action, id, labels.into_iter().chain([name]));
    }
}
