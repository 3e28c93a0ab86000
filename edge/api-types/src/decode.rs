//! Reads a request's JSON as Go's decoder does, because Docker's clients rely on it: names of fields match in any case
//! (docker-py sends `replicated`), unknown fields are skipped, and `null` means "not given" everywhere.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde_json::Value;

/// A body that is not the JSON it should be. The text begins as Docker's does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or a field of the wrong type.
    #[error("invalid JSON: {0}")]
    Invalid(String),
    /// More than one value.
    #[error("unexpected content after JSON")]
    Trailing,
}

/// Reads one value. No bytes at all are the zero value, as in Docker.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let value = if body.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => return Err(DecodeError::Invalid(error.to_string())),
            None => Value::Null,
        };
        if body.get(values.byte_offset()..).is_some_and(|rest| !rest.iter().all(u8::is_ascii_whitespace)) {
            return Err(DecodeError::Trailing);
        }
        value
    };
    T::deserialize(Go(value)).map_err(|error| DecodeError::Invalid(error.to_string()))
}

/// What went wrong, and where.
#[derive(Debug)]
struct Error {
    path: Vec<String>,
    text: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.path.iter().rev().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "." })?;
        }
        write!(f, "{}{}", if self.path.is_empty() { "" } else { ": " }, self.text)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { path: Vec::new(), text: text.to_string() }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        de::Error::custom(error)
    }
}

/// A value that is read with Go's leniency.
struct Go(Value);

macro_rules! zero_for_null {
    ($($method:ident => $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::Null => visitor.$visit($zero),
                value => Ok(value.$method(visitor)?),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Go {
    type Error = Error;

    zero_for_null! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i8(0);
        deserialize_i16 => visit_i16(0);
        deserialize_i32 => visit_i32(0);
        deserialize_i64 => visit_i64(0);
        deserialize_u8 => visit_u8(0);
        deserialize_u16 => visit_u16(0);
        deserialize_u32 => visit_u32(0);
        deserialize_u64 => visit_u64(0);
        deserialize_f32 => visit_f32(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_str => visit_str("");
        deserialize_string => visit_str("");
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            value => Ok(value.deserialize_any(visitor)?),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_seq(Elements(Vec::new().into_iter())),
            Value::Array(values) => visitor.visit_seq(Elements(values.into_iter())),
            other => Err(de::Error::invalid_type(unexpected(&other), &"a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_map(Fields::new(Vec::new())),
            Value::Object(map) => visitor.visit_map(Fields::new(map.into_iter().collect())),
            other => Err(de::Error::invalid_type(unexpected(&other), &"an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let map = match self.0 {
            Value::Null => return visitor.visit_map(Fields::new(Vec::new())),
            Value::Object(map) => map,
            other => return Err(de::Error::invalid_type(unexpected(&other), &"an object")),
        };
        let mut fields: Vec<(String, Value)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            if value.is_null() {
                continue;
            }
            let name =
                names.iter().find(|name| **name == key).or_else(|| names.iter().find(|n| n.eq_ignore_ascii_case(&key)));
            let Some(name) = name else { continue };
            fields.retain(|(known, _)| known != name);
            fields.push(((*name).to_owned(), value));
        }
        visitor.visit_map(Fields::new(fields))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Unit,
        Value::Bool(value) => de::Unexpected::Bool(*value),
        Value::Number(_) => de::Unexpected::Other("a number"),
        Value::String(text) => de::Unexpected::Str(text),
        Value::Array(_) => de::Unexpected::Seq,
        Value::Object(_) => de::Unexpected::Map,
    }
}

struct Elements(std::vec::IntoIter<Value>);

impl<'de> de::SeqAccess<'de> for Elements {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|value| seed.deserialize(Go(value))).transpose()
    }
}

struct Fields {
    rest: std::vec::IntoIter<(String, Value)>,
    current: Option<(String, Value)>,
}

impl Fields {
    fn new(fields: Vec<(String, Value)>) -> Self {
        Self { rest: fields.into_iter(), current: None }
    }
}

impl<'de> de::MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.next();
        match &self.current {
            Some((key, _)) => seed.deserialize(key.clone().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.current.take().expect("a value is asked for after its key");
        seed.deserialize(Go(value)).map_err(|mut error: Error| {
            error.path.push(key);
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Outer {
        name: String,
        count: u64,
        inner: Option<Inner>,
        list: Vec<Inner>,
        labels: BTreeMap<String, String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        on: bool,
    }

    fn outer(text: &str) -> Result<Outer, String> {
        decode(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_null_and_an_empty_object_are_the_zero_value() {
        for text in ["", "  ", "null", "{}", r#"{"Name":null,"Count":null,"Inner":null,"List":null,"Labels":null}"#] {
            assert_eq!(outer(text), Ok(Outer::default()), "{text}");
        }
    }

    #[test]
    fn names_match_in_any_case_and_unknown_ones_are_skipped() {
        let read = outer(r#"{"name":"a","INNER":{"on":true},"list":[null,{"on":true}],"labels":{"aB":null},"x":[1]}"#);
        let read = read.unwrap();
        assert_eq!(read.name, "a");
        assert_eq!(read.inner, Some(Inner { on: true }));
        assert_eq!(read.list.len(), 2);
        assert_eq!(read.labels["aB"], "");
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(
            outer(r#"{"Inner":{"On":"yes"}}"#),
            Err(r#"invalid JSON: Inner.On: invalid type: string "yes", expected a boolean"#.to_owned())
        );
        assert!(outer(r#"{"Count":-1}"#).unwrap_err().starts_with("invalid JSON: Count: "));
        assert!(outer("{").unwrap_err().starts_with("invalid JSON: "));
        assert!(outer("[]").unwrap_err().starts_with("invalid JSON: "));
        assert_eq!(outer("{} {}"), Err("unexpected content after JSON".to_owned()));
    }
}
