//! One machine's containers, images, logs and events; implements Executor with oci, image and network.
