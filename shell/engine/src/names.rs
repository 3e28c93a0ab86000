//! Names of containers: what may be one, and one for those that were given none.

use std::path::Path;

use crate::container::Container;
use crate::error::{EngineError, Result};

const FIRST: [&str; 40] = [
    "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp", "curious", "eager",
    "fair", "fleet", "frosty", "gentle", "golden", "happy", "hardy", "humble", "jolly", "keen", "kind", "lively",
    "loyal", "lucky", "mellow", "merry", "nimble", "patient", "placid", "proud", "quick", "quiet", "sharp", "steady",
    "sunny", "swift", "tidy", "warm",
];
const SECOND: [&str; 40] = [
    "acacia", "alder", "apiary", "aster", "bee", "bloom", "bramble", "brood", "cell", "clover", "colony", "comb",
    "drone", "field", "forager", "frame", "garden", "harvest", "heath", "heather", "hedge", "hive", "honey",
    "lavender", "lime", "linden", "meadow", "nectar", "nest", "orchard", "petal", "pollen", "queen", "scout", "swarm",
    "thyme", "wax", "wicker", "willow", "worker",
];

/// A name made from the random digits of an id.
pub(crate) fn invent(id: &str) -> String {
    let number = |range: std::ops::Range<usize>| {
        id.get(range).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0)
    };
    let (first, second) = (FIRST[number(0..4) % FIRST.len()], SECOND[number(4..8) % SECOND.len()]);
    format!("{first}_{second}_{}", number(8..11) % 1000)
}

/// Docker's rule.
pub(crate) fn check(name: &str) -> Result<()> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|letter| letter.is_ascii_alphanumeric());
    let rest = name.len() > 1 && letters.all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter));
    if first && rest && name.len() <= 255 {
        return Ok(());
    }
    let shown: String = name.chars().take(200).collect();
    Err(EngineError::Invalid(format!("Invalid container name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// Bytes that a container's own files take: what it wrote, and its log.
pub(crate) fn size_of_files(container: &Container) -> u64 {
    let mut size = folder(&container.directory.etc(""));
    if let skep_oci::RootFs::Overlay { upper, .. } = &container.record.config.rootfs {
        size += folder(upper);
    }
    size
}

/// Without following links; what cannot be read is not counted.
fn folder(path: &Path) -> u64 {
    let mut size = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                size += metadata.len();
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rule_of_names() {
        for good in ["web", "a1", "A.b_c-d", "/web"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-a", "a b", "a/b", "_x", "ä1"] {
            let text = check(bad).unwrap_err().to_string();
            assert!(text.ends_with("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"), "{text}");
        }
    }

    #[test]
    fn invented_names_are_names() {
        for id in ["00000000000", "fffffffffff", "0123456789abcdef"] {
            assert!(check(&invent(id)).is_ok());
        }
        assert_ne!(invent("00000000000"), invent("00010000000"));
    }
}
