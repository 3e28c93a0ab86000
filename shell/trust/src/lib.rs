//! Keys, CSRs, signing for the ca, TLS configurations, sealing and unlocking.
