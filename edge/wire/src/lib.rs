//! Protobuf messages for gRPC and for log entries, and the conversions to and from the model.
