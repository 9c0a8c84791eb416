//! The parts of a JSON array or object as bytes: one unreadable part then costs that part only. It finds where parts
//! begin and end, and does not check what is in them.

use super::DecodeError;

/// The name of a member, with its quotes' content as written, and its value.
type Member<'a> = (&'a [u8], &'a [u8]);

/// The elements of the JSON array `text`, each without surrounding white space. An element that is not JSON is returned
/// as it is. The iterator ends with an error when the array does not end (a truncated answer).
pub(super) fn array_elements<'a>(
    what: &'static str,
    text: &'a [u8],
) -> Result<impl Iterator<Item = Result<&'a [u8], DecodeError>>, DecodeError> {
    let Some(inner) = text.trim_ascii_start().strip_prefix(b"[") else {
        return Err(DecodeError { what, why: "it is not a list".to_owned() });
    };
    let mut rest = Some(inner);
    // `[]` has no element, and `[,]` has two that are empty.
    if let Some(after) = inner.trim_ascii_start().strip_prefix(b"]") {
        end_of(what, after)?;
        rest = None;
    }
    Ok(std::iter::from_fn(move || {
        let part = rest.take()?;
        let Some(end) = end_of_part(part, b",]") else {
            return Some(Err(DecodeError { what, why: "it is cut off".to_owned() }));
        };
        if part[end] == b',' {
            rest = Some(&part[end + 1..]);
        } else if let Err(error) = end_of(what, &part[end + 1..]) {
            return Some(Err(error));
        }
        Some(Ok(part[..end].trim_ascii()))
    }))
}

/// The members of the JSON object `text`: each name (without escapes, as it is between its quotes) and its value. The
/// iterator ends with an error when the object does not end.
pub(super) fn members<'a>(
    what: &'static str,
    text: &'a [u8],
) -> Result<impl Iterator<Item = Result<Member<'a>, DecodeError>>, DecodeError> {
    let broken = move |why: &str| DecodeError { what, why: why.to_owned() };
    let Some(inner) = text.trim_ascii_start().strip_prefix(b"{") else {
        return Err(broken("it is not an object"));
    };
    let mut rest = (inner.trim_ascii_start().first() != Some(&b'}')).then_some(inner);
    Ok(std::iter::from_fn(move || {
        let part = rest.take()?;
        let ends = end_of_part(part, b":").and_then(|colon| Some((colon, end_of_part(&part[colon + 1..], b",}")?)));
        let Some((colon, length)) = ends else { return Some(Err(broken("it is cut off"))) };
        let (key, end) = (part[..colon].trim_ascii(), colon + 1 + length);
        if part[end] == b',' {
            rest = Some(&part[end + 1..]);
        } else if let Err(error) = end_of(what, &part[end + 1..]) {
            return Some(Err(error));
        }
        let name = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or_default();
        Some(Ok((name, part[colon + 1..end].trim_ascii())))
    }))
}

/// The value of the member `name` (without escapes) of the JSON object `text`; `None` when it has none.
pub(super) fn member<'a>(what: &'static str, text: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, DecodeError> {
    let mut found = None;
    for part in members(what, text)? {
        let (key, value) = part?;
        if found.is_none() && key == name.as_bytes() {
            found = Some(value);
        }
    }
    Ok(found)
}

fn end_of(what: &'static str, after: &[u8]) -> Result<(), DecodeError> {
    match after.trim_ascii().is_empty() {
        true => Ok(()),
        false => Err(DecodeError { what, why: "something follows its end".to_owned() }),
    }
}

/// The index of the first byte in `ends` that is neither in a string nor in a nested array or object.
fn end_of_part(text: &[u8], ends: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (index, &byte) in text.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        if depth == 0 && ends.contains(&byte) {
            return Some(index);
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn elements(text: &str) -> Result<Vec<String>, String> {
        let elements = array_elements("answer", text.as_bytes()).map_err(|error| error.why)?;
        elements
            .map(|element| element.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).map_err(|error| error.why))
            .collect()
    }

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(
            elements(text).as_deref(),
            Ok(expected.iter().map(|&part| part.to_owned()).collect::<Vec<_>>().as_slice())
        );
    }

    #[test]
    fn an_array_is_divided_into_its_elements() {
        check("[]", &[]);
        check(" [ ] \n", &[]);
        check("[1, 2 ,3]", &["1", "2", "3"]);
        check(r#"[{"a":[1,{"b":"],}"}]},"x,\"]y\\",null]"#, &[r#"{"a":[1,{"b":"],}"}]}"#, r#""x,\"]y\\""#, "null"]);
    }

    #[test]
    fn an_element_that_is_not_json_is_an_element() {
        check("[1,,NaN,{a b},]", &["1", "", "NaN", "{a b}", ""]);
    }

    #[test]
    fn a_truncated_or_different_answer_is_an_error() {
        for (text, why) in [
            ("[1,2", "it is cut off"),
            (r#"["]"#, "it is cut off"),
            ("[{]", "it is cut off"),
            ("[1] 2", "something follows its end"),
            ("{}", "it is not a list"),
            ("", "it is not a list"),
            ("null", "it is not a list"),
        ] {
            assert_eq!(elements(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_member_is_found_beside_unreadable_ones() {
        let text = br#"{ "b" : NaN, "a":[1,"}"], "nested":{"c":1} }"#;
        assert_eq!(member("answer", text, "a"), Ok(Some(br#"[1,"}"]"#.as_slice())));
        assert_eq!(member("answer", text, "c"), Ok(None));
        assert_eq!(member("answer", b"{}", "c"), Ok(None));
        assert!(member("answer", br#"{"a":1"#, "a").is_err());
        assert!(member("answer", b"[1]", "a").is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[\\[\\]{},:\"\\\\a-c ]{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
            ]
        })
    }

    proptest! {
        #[test]
        fn parts_are_the_same_as_a_json_parsers(values in prop::collection::vec(json(), 0..5)) {
            let text = Value::from(values.clone()).to_string();
            let found: Vec<Value> =
                elements(&text).unwrap().iter().map(|part| serde_json::from_str(part).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(prop::sample::select(b"[]{}\",:\\a ".to_vec()), 0..40)) {
            if let Ok(elements) = array_elements("answer", &bytes) {
                prop_assert!(elements.count() <= bytes.len());
            }
            if let Ok(Some(value)) = member("answer", &bytes, "a") {
                prop_assert!(value.len() <= bytes.len());
            }
        }
    }
}
