//! One machine's membership: identity; drives the agent and, when asked, a manager.
