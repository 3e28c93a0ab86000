//! Feeds broken input to what reads the input of strangers: valid samples are mutated from a seed, and each result must be refused
//! or taken without a panic, and without a trace when it was refused. No coverage, no special compiler: cheap enough to be run
//! with the tests, and for hours when wanted. `skep-fuzz` and this crate's tests call it.

mod images;
mod mutate;
mod texts;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, bail};

pub use mutate::Mutator;

/// Something that reads what strangers send.
trait Target {
    /// Reads one mutated sample; an error says what is wrong with the reader.
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()>;
}

/// The names of all targets.
pub const TARGETS: [&str; 5] = ["archive", "layer", "manifest", "config", "text"];

/// Runs `count` cases of a target. Case `n` of seed `s` is case 0 of seed `s + n`, so that a failure can be repeated alone.
///
/// # Errors
/// The target does not exist, or a case failed; the error names its seed.
pub fn run(target: &str, seed: u64, count: u64) -> anyhow::Result<()> {
    let mut reader: Box<dyn Target> = match target {
        "archive" => Box::new(images::Archives::new()?),
        "layer" => Box::new(images::Layers::new()?),
        "manifest" => Box::new(texts::Manifests),
        "config" => Box::new(texts::Configs),
        "text" => Box::new(texts::Texts),
        other => bail!("no target {other:?}: choose one of {}", TARGETS.join(", ")),
    };
    for case in seed..seed.saturating_add(count) {
        let mut mutator = Mutator::new(case);
        let repeat = || format!("repeat with: skep-fuzz --target {target} --seed {case} --count 1");
        match catch_unwind(AssertUnwindSafe(|| reader.case(&mut mutator))) {
            Ok(result) => result.with_context(repeat)?,
            Err(_) => bail!("panic; {}", repeat()),
        }
    }
    Ok(())
}
