//! `skep-fuzz --target NAME --seed N --count M`.

use clap::Parser;

/// Feeds broken input to what reads the input of strangers.
#[derive(Parser)]
struct Arguments {
    /// What to feed; all of them when not given
    #[arg(long)]
    target: Option<String>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many cases
    #[arg(long, default_value_t = 1000)]
    count: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let targets: Vec<&str> = match &arguments.target {
        Some(target) => vec![target],
        None => skep_fuzz::TARGETS.to_vec(),
    };
    for target in targets {
        skep_fuzz::run(target, arguments.seed, arguments.count)?;
        eprintln!("{target}: {} cases from seed {}", arguments.count, arguments.seed);
    }
    Ok(())
}
