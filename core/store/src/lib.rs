//! The whole cluster state as one immutable value: tables, indexes, transactions, a deterministic apply and its events.
