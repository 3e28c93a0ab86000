//! Files that are either old or new, never half: written beside their place, made durable, then renamed into it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Where a node keeps its certificates: the names Docker uses, below the directory given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePaths {
    /// The cluster's root certificate, mode 0644.
    pub root: PathBuf,
    /// The node's certificate, mode 0644.
    pub certificate: PathBuf,
    /// The node's private key, mode 0600.
    pub key: PathBuf,
}

impl CertificatePaths {
    /// The paths below `directory` (`<data-root>/swarm/certificates`).
    pub fn new(directory: &Path) -> CertificatePaths {
        CertificatePaths {
            root: directory.join("swarm-root-ca.crt"),
            certificate: directory.join("swarm-node.crt"),
            key: directory.join("swarm-node.key"),
        }
    }

    /// Writes the cluster's root certificate.
    pub fn write_root(&self, root_pem: &str) -> io::Result<()> {
        create_parent(&self.root)?;
        write_atomic(&self.root, root_pem.as_bytes(), 0o644)
    }

    /// Writes the node's key, then its certificate: a reader that finds the certificate finds its key.
    pub fn write_node(&self, certificate_pem: &str, key_pem: &str) -> io::Result<()> {
        create_parent(&self.key)?;
        write_atomic(&self.key, key_pem.as_bytes(), 0o600)?;
        write_atomic(&self.certificate, certificate_pem.as_bytes(), 0o644)
    }
}

/// Writes a whole file durably: a dot-prefixed temporary file in the same directory, fsync, rename, fsync of the
/// directory. After a crash the old or the new content is there.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (directory, name) = match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => (directory, name),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file")),
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".tmp");
    let temporary = directory.join(temporary_name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        // The file may be left over from a crash, with another mode; and the umask counts only at creation.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

/// Reads a text file; `None` when there is none.
pub fn read_if_present(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

fn create_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn certificates_have_dockers_names_and_modes() {
        let directory = tempfile::tempdir().unwrap();
        let paths = CertificatePaths::new(&directory.path().join("certificates"));
        paths.write_root("root").unwrap();
        paths.write_node("certificate", "key").unwrap();
        assert_eq!((mode(&paths.root), mode(&paths.certificate), mode(&paths.key)), (0o644, 0o644, 0o600));
        assert_eq!(read_if_present(&paths.key).unwrap().as_deref(), Some("key"));
        let mut names: Vec<_> = fs::read_dir(directory.path().join("certificates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"]);
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(directory.path().join(".key.tmp"), "half of an older, longer content").unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "x").unwrap();
        assert!(write_atomic(&path, b"new", 0o600).is_err());
        assert!(!directory.path().join(".taken.tmp").exists());
        assert_eq!(read_if_present(&directory.path().join("absent")).unwrap(), None);
    }
}
