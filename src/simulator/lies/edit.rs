//! Edits of one JSON object or row as text: what a lying exchange changes in a frame or in an answer. Pure.

use std::ops::Range;
use std::str::FromStr;

use rust_decimal::Decimal;

/// One field and its change: `price=+1`, `t=max`, `E=*1000`, `qty=null`, `p=unquoted`, `q=absent`. Fields of an array are
/// numbers that count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    field: String,
    change: Change,
}

/// How a field changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// `max`: the greatest `i64`.
    Max,
    /// `min`: the smallest `i64`.
    Min,
    /// `+5`: the number grows by this; a decimal stays exact.
    Add(Decimal),
    /// `*1000`: the number is multiplied.
    Times(Decimal),
    /// `unquoted`: a text becomes a bare word, so `"1.5"` becomes a number.
    Unquoted,
    /// `quoted`: a number becomes a text.
    Quoted,
    /// `absent`: the field is left out.
    Absent,
    /// Any other text: the value itself, in quotes where the old value has quotes.
    Value(String),
}

/// The year 3000 in milliseconds since 1970.
const YEAR_3000_MS: &str = "32503680000000";

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, change) = text
            .split_once('=')
            .filter(|(field, change)| !field.is_empty() && !change.is_empty())
            .ok_or_else(|| format!("`{text}` is not an edit, write it as `price=+1`"))?;
        let number = |text: &str| Decimal::from_str_exact(text).ok();
        let change = match change {
            "max" => Change::Max,
            "min" => Change::Min,
            "unquoted" => Change::Unquoted,
            "quoted" => Change::Quoted,
            "absent" => Change::Absent,
            "year3000" => Change::Value(YEAR_3000_MS.to_owned()),
            other => match (other.strip_prefix('+').and_then(number), other.strip_prefix('*').and_then(number)) {
                (Some(added), _) => Change::Add(added),
                (_, Some(factor)) => Change::Times(factor),
                _ => Change::Value(other.to_owned()),
            },
        };
        Ok(Self { field: field.to_owned(), change })
    }
}

/// Several edits of one object: `L=max&f=0&x=true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

impl FromStr for Edits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.split('&').map(str::parse).collect::<Result<_, _>>()?))
    }
}

impl Edits {
    /// The text with every field changed; looks for fields at or behind `from`. `None` when a field is missing.
    pub fn apply(&self, json: &str, from: usize) -> Option<String> {
        let mut text = json.to_owned();
        for edit in &self.0 {
            text = edit.apply(&text, from)?;
        }
        Some(text)
    }
}

impl Edit {
    fn apply(&self, json: &str, from: usize) -> Option<String> {
        let value = match self.field.parse::<usize>() {
            Ok(column) => column_span(json, column)?,
            Err(_) => value_span(json, &self.field, from)?,
        };
        let mut text = json.to_owned();
        if self.change == Change::Absent {
            text.replace_range(whole_field(json, &self.field, value), "");
        } else {
            let new = self.changed(&json[value.clone()]);
            text.replace_range(value, &new);
        }
        Some(text)
    }

    fn changed(&self, old: &str) -> String {
        let quoted = old.starts_with('"');
        let bare = old.trim_matches('"');
        let like_old = |text: String| if quoted { format!("\"{text}\"") } else { text };
        let number = || Decimal::from_str_exact(bare).unwrap_or_default();
        match &self.change {
            Change::Max => like_old(i64::MAX.to_string()),
            Change::Min => like_old(i64::MIN.to_string()),
            Change::Add(added) => like_old(number().saturating_add(*added).to_string()),
            Change::Times(factor) => like_old(number().saturating_mul(*factor).to_string()),
            Change::Unquoted => bare.to_owned(),
            Change::Quoted => format!("\"{bare}\""),
            Change::Absent => String::new(),
            Change::Value(text) => {
                let raw = ["null", "true", "false"].contains(&text.as_str()) || text.starts_with(['"', '[', '{']);
                // A word that is no JSON number would break the whole object.
                let number = serde_json::from_str::<serde_json::Number>(text).is_ok();
                if raw || (number && !quoted) { text.clone() } else { format!("\"{text}\"") }
            }
        }
    }
}

/// Where the value of the first field of this name is.
fn value_span(json: &str, field: &str, from: usize) -> Option<Range<usize>> {
    let key = format!("\"{field}\":");
    let start = from + json.get(from..)?.find(&key)? + key.len();
    Some(start..value_end(json, start))
}

/// Where a column of an array is.
fn column_span(json: &str, column: usize) -> Option<Range<usize>> {
    let mut start = json.find('[')? + 1;
    for _ in 0..column {
        let end = value_end(json, start);
        if json.as_bytes().get(end) != Some(&b',') {
            return None;
        }
        start = end + 1;
    }
    Some(start..value_end(json, start))
}

/// The end of a text or a bare value that begins at `start`.
fn value_end(json: &str, start: usize) -> usize {
    let rest = &json[start..];
    let length = match rest.strip_prefix('"') {
        // The simulated exchange sends no escapes.
        Some(text) => text.find('"').map(|end| end + 2),
        None => rest.find([',', '}', ']']),
    };
    start + length.unwrap_or(rest.len())
}

/// The span of a field with its name and one comma.
fn whole_field(json: &str, field: &str, value: Range<usize>) -> Range<usize> {
    let named = field.parse::<usize>().is_err();
    let start = if named { value.start - field.len() - 3 } else { value.start };
    match (json.as_bytes().get(value.end), start.checked_sub(1).and_then(|before| json.as_bytes().get(before))) {
        (Some(b','), _) => start..value.end + 1,
        (_, Some(b',')) => start - 1..value.end,
        _ => start..value.end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADE: &str =
        r#"{"e":"trade","E":1700000000001,"s":"BTCUSDT","t":12,"p":"2683.80","q":"0.5","T":7,"m":true}"#;

    fn check(json: &str, edits: &str, expected: &str) {
        let edited = edits.parse::<Edits>().unwrap().apply(json, 0).unwrap();
        assert!(edited.contains(expected), "{edits}: {edited}");
    }

    #[test]
    fn a_field_becomes_an_edge_or_another_number() {
        check(TRADE, "t=max", r#""t":9223372036854775807,"#);
        check(TRADE, "t=min", r#""t":-9223372036854775808,"#);
        check(TRADE, "t=+1000000000000", r#""t":1000000000012,"#);
        check(TRADE, "E=*1000", r#""E":1700000000001000,"#);
        check(TRADE, "E=year3000", r#""E":32503680000000,"#);
        check(TRADE, "p=+0.01", r#""p":"2683.81","#);
        check(TRADE, "t=0", r#""t":0,"#);
    }

    #[test]
    fn a_field_becomes_another_type() {
        check(TRADE, "p=unquoted", r#""p":2683.80,"#);
        check(TRADE, "t=quoted", r#""t":"12","#);
        check(TRADE, "q=null", r#""q":null,"#);
        check(TRADE, "q=1e-8", r#""q":"1e-8","#);
        check(TRADE, "t=many", r#""t":"many","#);
    }

    #[test]
    fn a_field_is_left_out_with_its_comma() {
        check(TRADE, "p=absent", r#""t":12,"q":"0.5""#);
        check(TRADE, "m=absent", r#""T":7}"#);
        check(r#"[1,"2","3"]"#, "2=absent", r#"[1,"2"]"#);
    }

    #[test]
    fn columns_of_an_array_are_numbers() {
        check(r#"[1,"2.5","3",4]"#, "1=+1", r#"[1,"3.5","3",4]"#);
        check(r#"[1,"2.5","3",4]"#, "3=max", r#""3",9223372036854775807]"#);
        assert!("9=1".parse::<Edits>().unwrap().apply(r#"[1,"2"]"#, 0).is_none());
    }

    #[test]
    fn several_fields_change_at_once() {
        check(r#"{"k":{"f":1,"L":2,"x":false}}"#, "L=max&f=0&x=true", r#"{"f":0,"L":9223372036854775807,"x":true}"#);
        assert!("price".parse::<Edits>().is_err());
        assert!("z=1".parse::<Edits>().unwrap().apply(TRADE, 0).is_none());
    }
}
