//! Puts change sets in one durable order: log, snapshots, encryption at rest; publishes commits.
