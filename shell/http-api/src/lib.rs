//! Serves the Docker HTTP API, sending each request to the engine or to the node's cluster client.
