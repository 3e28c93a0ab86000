//! Runs the control loops on the leader and serves gRPC: dispatch and log streams.
