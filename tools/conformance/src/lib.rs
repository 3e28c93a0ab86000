//! Replays Docker API recordings against a running daemon.
