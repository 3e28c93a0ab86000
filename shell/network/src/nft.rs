//! Sending nft transactions. A transaction is carried out wholly or not at all, whoever sends it.

use crate::error::Result;
use crate::namespace;
use skep_dataplane::ruleset::TABLE;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A ruleset could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be started or spoken to.
    #[error("cannot run {program:?}: is nftables installed?")]
    Run {
        /// Which program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel or the program refused; nothing was changed.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Who speaks nft to the kernel.
pub trait NftBackend: Send + Sync {
    /// Carries out the transaction in the namespace of the calling thread.
    fn apply(&self, transaction: &str) -> Result<(), NftError>;

    /// The table of skep in the namespace of the calling thread as text that is the same for the same rules; `None`
    /// when there is no such table.
    fn list(&self) -> Result<Option<String>, NftError>;
}

/// The `nft` program: one process of some 8 ms per call.
#[derive(Debug, Clone)]
pub struct NftBinary {
    program: PathBuf,
}

impl Default for NftBinary {
    fn default() -> Self {
        Self { program: PathBuf::from("nft") }
    }
}

impl NftBinary {
    fn run(&self, arguments: &[&str], input: &str) -> Result<Result<String, String>, NftError> {
        let failed = |source| NftError::Run { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        // nft reads all of its input before it writes anything. When it ends early, its words are the better error.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            written.map_err(failed)?;
            return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

impl NftBackend for NftBinary {
    fn apply(&self, transaction: &str) -> Result<(), NftError> {
        self.run(&["-f", "-"], transaction)?.map(drop).map_err(NftError::Refused)
    }

    fn list(&self) -> Result<Option<String>, NftError> {
        match self.run(&["-s", "list", "table", "ip", TABLE], "")? {
            Ok(text) => Ok(Some(normalized(&text))),
            Err(error) if error.contains("No such file or directory") => Ok(None),
            Err(error) => Err(NftError::Refused(error)),
        }
    }
}

/// Chains are listed in the order in which they were made, which differs between a table made at once and one changed
/// in steps: brings chains into the order of their names, and the elements of the map into theirs.
fn normalized(listing: &str) -> String {
    let mut blocks: Vec<String> = Vec::new();
    let mut block = String::new();
    for line in listing.lines().filter(|line| !line.is_empty()) {
        block.push_str(line);
        block.push('\n');
        if line == "\t}" {
            blocks.push(sorted_elements(std::mem::take(&mut block).trim_start_matches("table ip skep {\n")));
        }
    }
    blocks.sort();
    blocks.concat()
}

fn sorted_elements(block: &str) -> String {
    let Some((head, rest)) = block.split_once("elements = {") else { return block.to_owned() };
    let Some((elements, tail)) = rest.split_once('}') else { return block.to_owned() };
    let mut elements: Vec<&str> = elements.split(',').map(str::trim).collect();
    elements.sort_unstable();
    format!("{head}elements = {{ {} }}{tail}", elements.join(", "))
}

/// A backend bound to one namespace.
pub(crate) struct NamespacedNft {
    backend: Box<dyn NftBackend>,
}

impl NamespacedNft {
    pub(crate) fn new(backend: Box<dyn NftBackend>) -> Self {
        Self { backend }
    }

    pub(crate) fn apply(&self, netns: &OwnedFd, transaction: &str) -> Result<()> {
        namespace::within(netns, || Ok(self.backend.apply(transaction)?))
    }

    pub(crate) fn list(&self, netns: &OwnedFd) -> Result<Option<String>> {
        namespace::within(netns, || Ok(self.backend.list()?))
    }

    /// What [`Self::list`] says where exactly this transaction was carried out: found in a throw-away namespace.
    pub(crate) fn expected(&self, transaction: &str) -> Result<Option<String>> {
        namespace::within_new(|| {
            self.backend.apply(transaction)?;
            Ok(self.backend.list()?)
        })
    }

    pub(crate) fn backend(&self) -> &dyn NftBackend {
        &*self.backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_compare_whatever_the_order() {
        let one = "table ip skep {\n\tmap ports {\n\t\telements = { b : goto b,\n\t\t\t     a : goto a }\n\t}\n\n\tchain z {\n\t\tdrop\n\t}\n\n\tchain y {\n\t}\n}\n";
        let two = "table ip skep {\n\tchain y {\n\t}\n\n\tchain z {\n\t\tdrop\n\t}\n\n\tmap ports {\n\t\telements = { a : goto a, b : goto b }\n\t}\n}\n";
        assert_eq!(normalized(one), normalized(two));
        assert_ne!(normalized(one), normalized(&two.replace("drop", "accept")));
    }
}
