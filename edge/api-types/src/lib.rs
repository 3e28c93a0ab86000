//! The Docker Engine API's JSON as types, and the conversions to and from the model.
