//! Random names for services that were given none: `adjective_surname`, as Docker does.

use skep_control::Env;
use skep_store::State;

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "bright", "busy", "calm", "clever", "cosy", "eager", "fair", "fond", "gentle", "glad",
    "golden", "happy", "keen", "kind", "lively", "loyal", "lucky", "merry", "mild", "neat", "noble", "proud", "quick",
    "quiet", "sharp", "sunny", "swift", "warm", "wise",
];

const SURNAMES: [&str; 32] = [
    "ada",
    "bartik",
    "bohr",
    "boole",
    "curie",
    "darwin",
    "dijkstra",
    "euler",
    "franklin",
    "frisch",
    "gauss",
    "goodall",
    "hamilton",
    "hopper",
    "huber",
    "janscha",
    "kepler",
    "knuth",
    "lamport",
    "lovelace",
    "maeterlinck",
    "meitner",
    "noether",
    "perlman",
    "ritchie",
    "shannon",
    "swammerdam",
    "thompson",
    "turing",
    "vonfrisch",
    "wilson",
    "zuse",
];

/// A name that no service has.
pub(crate) fn random_name(view: &State, env: &mut Env) -> String {
    loop {
        let mut pick = |words: &[&'static str; 32]| words[usize::try_from(env.rng.below(32)).unwrap_or(0)];
        let (adjective, surname) = (pick(&ADJECTIVES), pick(&SURNAMES));
        let plain = format!("{adjective}_{surname}");
        let numbered = format!("{plain}{}", env.rng.below(1_000_000));
        for name in [plain, numbered] {
            if view.service_by_name(&name).is_none() {
                return name;
            }
        }
    }
}
