//! Builders, fakes and suites shared by tests.
