//! The nouns of a skep cluster: specs, status, typed ids, task states, sizes, times and rates with units.
