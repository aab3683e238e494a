//! JSON as Go's `encoding/json` writes it, so that a record of Calico's which is written again is the same byte for byte.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// What is null is absent, as in Go.
///
/// # Errors
/// Those of the value's own type.
pub fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// What is null or an empty string is absent: Go has no other way to say so of a string type.
///
/// # Errors
/// Those of the value's own type.
pub fn empty_as_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(d: D) -> Result<T, D::Error> {
    match Value::deserialize(d)? {
        Value::Null => Ok(T::default()),
        Value::String(text) if text.is_empty() => Ok(T::default()),
        value => T::deserialize(value).map_err(D::Error::custom),
    }
}

/// The text of a value: `<`, `>`, `&` and two separators of lines are escaped, which only strings can hold.
///
/// # Errors
/// None is known for what has text keys and finite numbers.
pub fn to_vec<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let text = serde_json::to_string(value)?;
    const ESCAPED: [char; 5] = ['<', '>', '&', '\u{2028}', '\u{2029}'];
    // In pieces, each without a branch: most texts have none of them. 0xe2 begins the separators.
    let may_be_escaped = |piece: &[u8]| piece.iter().fold(false, |any, b| any | matches!(b, b'<' | b'>' | b'&' | 0xe2));
    if !text.as_bytes().chunks(64).any(may_be_escaped) {
        return Ok(text.into_bytes());
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if ESCAPED.contains(&c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped.into_bytes())
}

/// The value with its fields in the order that they have in `model`; what that lacks follows.
pub fn in_order_of(value: &Value, model: &Value) -> Value {
    match (value, model) {
        (Value::Object(fields), Value::Object(known)) => {
            let first = known.keys().filter(|name| fields.contains_key(*name));
            let rest = fields.keys().filter(|name| !known.contains_key(*name));
            let ordered = first.chain(rest).map(|name| {
                let model = known.get(name).unwrap_or(&Value::Null);
                (name.clone(), in_order_of(&fields[name], model))
            });
            Value::Object(ordered.collect::<Map<_, _>>())
        }
        (Value::Array(items), Value::Array(known)) => {
            let models = known.iter().chain(std::iter::repeat(&Value::Null));
            Value::Array(items.iter().zip(models).map(|(item, model)| in_order_of(item, model)).collect())
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_escaped_as_in_go() {
        for (value, wanted) in [
            (json!({"a": "b == 'c' && d"}), r#"{"a":"b == 'c' \u0026\u0026 d"}"#),
            (json!("<\u{2028}>\u{2029}é"), r#""\u003c\u2028\u003e\u2029é""#),
            (json!([1, null, "a\"b"]), r#"[1,null,"a\"b"]"#),
        ] {
            let text = String::from_utf8(to_vec(&value).unwrap()).unwrap();
            assert_eq!(text, wanted);
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn fields_keep_their_places() {
        let model = json!({"kind": 1, "spec": {"b": 1, "a": [{"y": 1, "x": 2}]}, "gone": 1});
        let value = json!({"new": 0, "spec": {"a": [{"x": 3, "y": 4}, {"q": 1, "p": 2}], "b": 5}, "kind": 6});
        let wanted = r#"{"kind":6,"spec":{"b":5,"a":[{"y":4,"x":3},{"q":1,"p":2}]},"new":0}"#;
        let ordered = in_order_of(&value, &model);
        assert_eq!(ordered.to_string(), wanted);
        assert_eq!(ordered, value);
    }
}
