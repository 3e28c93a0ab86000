//! Decides which tasks get traffic and when a leaving task may be stopped.
