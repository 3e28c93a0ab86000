//! A path in a container as a client writes it. `..` is resolved by the letters, as Docker does before it looks at anything; a
//! slash or a dot at the end means what a link leads to, and is kept for the names in an archive.

use std::path::{Component, Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InsidePath {
    absolute: PathBuf,
    follows: bool,
    has_dot: bool,
}

impl InsidePath {
    pub(super) fn parse(text: &str) -> Self {
        let mut absolute = PathBuf::from("/");
        for component in Path::new(text).components() {
            match component {
                Component::Normal(name) => absolute.push(name),
                Component::ParentDir => drop(absolute.pop()),
                _ => {}
            }
        }
        let has_dot = text == "." || text.ends_with("/.");
        Self { absolute, follows: has_dot || text.ends_with('/'), has_dot }
    }

    /// From the root of the container.
    pub(super) fn absolute(&self) -> &Path {
        &self.absolute
    }

    /// A link at the end is followed.
    pub(super) fn follows(&self) -> bool {
        self.follows || self.is_root()
    }

    fn is_root(&self) -> bool {
        self.absolute.parent().is_none()
    }

    /// Its last component, as Go's `filepath.Base` has it.
    pub(super) fn base(&self) -> String {
        match self.absolute.file_name() {
            _ if self.has_dot => ".".to_owned(),
            Some(name) => name.to_string_lossy().into_owned(),
            None => "/".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_the_letters() {
        for (text, absolute, base, follows) in [
            ("a/b", "/a/b", "b", false),
            ("/a/../../b/", "/b", "b", true),
            ("/a/.", "/a", ".", true),
            ("/", "/", "/", true),
            ("", "/", "/", true),
            (".", "/", ".", true),
        ] {
            let path = InsidePath::parse(text);
            assert_eq!((path.absolute(), path.base().as_str()), (Path::new(absolute), base), "{text}");
            assert_eq!(path.follows(), follows, "{text}");
        }
    }
}
