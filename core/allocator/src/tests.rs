//! Tests of the allocator as a whole.
