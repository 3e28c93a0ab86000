//! The generated messages, nested as their packages are: the generator's paths between packages count on it.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::large_enum_variant,
    clippy::doc_markdown,
    reason = "generated from the .proto files, which are documented"
)]

pub mod docker {
    pub mod swarmkit {
        pub mod v1 {
            tonic::include_proto!("docker.swarmkit.v1");
        }
    }
}

pub mod skep {
    pub mod store {
        pub mod v1 {
            tonic::include_proto!("skep.store.v1");
        }
    }

    pub mod worker {
        pub mod v1 {
            tonic::include_proto!("skep.worker.v1");
        }
    }
}
