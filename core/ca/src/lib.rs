//! Decides who may join and which certificate they get: join tokens and issuing policy.
