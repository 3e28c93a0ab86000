//! Tests of the orchestrator as a whole.
