//! Checks a user's request against the state and turns it into changes, or into a refusal that says why.
