//! Decodes answers in RowBinaryWithNamesAndTypes into structs, by serde. It compares the names and types of the columns
//! with the fields of the struct, so that an answer to another question never becomes rows.

use serde::de::{self, DeserializeOwned, DeserializeSeed, SeqAccess, Visitor};

/// Why an answer cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// The answer ends inside a row, or is no answer in this format.
    #[error("it ends inside a row")]
    Cut,
    /// The columns are not the expected ones.
    #[error("{0}")]
    Mismatch(String),
}

impl de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Mismatch(message.to_string())
    }
}

/// The rows of an answer.
pub(super) fn rows<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, DecodeError> {
    let mut bytes = Bytes(body);
    let columns = columns(&mut bytes)?;
    let mut rows = Vec::new();
    while !bytes.0.is_empty() {
        rows.push(T::deserialize(RowDeserializer { bytes: &mut bytes, columns: &columns })?);
    }
    Ok(rows)
}

/// A column of the answer.
#[derive(Debug)]
struct Column {
    name: String,
    /// The type as the server writes it, for messages.
    type_name: String,
    kind: Kind,
}

/// How a value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Text,
    Signed(usize),
    Unsigned(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    encoding: Encoding,
    is_nullable: bool,
}

/// The bytes that are not decoded yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    /// LEB128.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let mut length = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.take(1)?[0];
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(length).map_err(|_| DecodeError::Cut);
            }
        }
        Err(DecodeError::Cut)
    }

    fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(length)
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.text()?);
        text.map(str::to_owned).map_err(|_| DecodeError::Mismatch("the name of a column is not text".to_owned()))
    }
}

fn columns(bytes: &mut Bytes<'_>) -> Result<Vec<Column>, DecodeError> {
    let count = bytes.length()?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(bytes.name()?);
    }
    let mut columns = Vec::new();
    for name in names {
        let type_name = bytes.name()?;
        let kind = kind(&type_name)
            .ok_or_else(|| DecodeError::Mismatch(format!("column {name} has the unknown type {type_name}")))?;
        columns.push(Column { name, type_name, kind });
    }
    Ok(columns)
}

/// The encoding of a type; `None` if no column of ours has it.
fn kind(type_name: &str) -> Option<Kind> {
    let inner = |outer: &str| type_name.strip_prefix(outer)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(inner) = inner("LowCardinality") {
        return kind(inner);
    }
    if let Some(inner) = inner("Nullable") {
        return Some(Kind { is_nullable: true, ..kind(inner)? });
    }
    let (base, arguments) = type_name.split_once('(').unwrap_or((type_name, ""));
    let encoding = match base {
        "String" => Encoding::Text,
        "Int8" | "Enum8" => Encoding::Signed(1),
        "Int16" | "Enum16" => Encoding::Signed(2),
        "Int32" => Encoding::Signed(4),
        "Int64" | "DateTime64" => Encoding::Signed(8),
        "Int128" => Encoding::Signed(16),
        "UInt8" | "Bool" => Encoding::Unsigned(1),
        "UInt16" | "Date" => Encoding::Unsigned(2),
        "UInt32" | "DateTime" => Encoding::Unsigned(4),
        "UInt64" => Encoding::Unsigned(8),
        "Decimal" => match arguments.split(',').next()?.trim().parse().ok()? {
            0..=9 => Encoding::Signed(4),
            10..=18 => Encoding::Signed(8),
            19..=38 => Encoding::Signed(16),
            _ => return None,
        },
        _ => return None,
    };
    Some(Kind { encoding, is_nullable: false })
}

/// One row: a struct with a field for each column, or the value of the only column.
struct RowDeserializer<'a, 'b> {
    bytes: &'b mut Bytes<'a>,
    columns: &'b [Column],
}

impl<'a, 'b> RowDeserializer<'a, 'b> {
    fn only(self) -> Result<ValueDeserializer<'a, 'b>, DecodeError> {
        match self.columns {
            [column] => Ok(ValueDeserializer { bytes: self.bytes, column, kind: column.kind }),
            columns => Err(DecodeError::Mismatch(format!("{} columns in place of one", columns.len()))),
        }
    }
}

/// Passes the methods for a row of one value to the deserializer of that value.
macro_rules! only_value {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.only()?.$method(visitor)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for RowDeserializer<'_, '_> {
    type Error = DecodeError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let names = self.columns.iter().map(|column| column.name.as_str());
        if !names.clone().eq(fields.iter().copied()) {
            let names: Vec<&str> = names.collect();
            return Err(DecodeError::Mismatch(format!(
                "its columns are {} in place of {}",
                names.join(", "),
                fields.join(", ")
            )));
        }
        visitor.visit_seq(Values { bytes: self.bytes, columns: self.columns.iter() })
    }

    only_value! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.only()?.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Values { bytes: self.bytes, columns: self.columns.iter() })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.only()?.deserialize_any(visitor)
    }
}

/// The values of one row.
struct Values<'a, 'b> {
    bytes: &'b mut Bytes<'a>,
    columns: std::slice::Iter<'b, Column>,
}

impl<'de> SeqAccess<'de> for Values<'_, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(column) = self.columns.next() else { return Ok(None) };
        seed.deserialize(ValueDeserializer { bytes: self.bytes, column, kind: column.kind }).map(Some)
    }
}

/// One value.
struct ValueDeserializer<'a, 'b> {
    bytes: &'b mut Bytes<'a>,
    column: &'b Column,
    kind: Kind,
}

impl<'a> ValueDeserializer<'a, '_> {
    fn refuse<T>(&self, wanted: &str) -> Result<T, DecodeError> {
        let Column { name, type_name, .. } = self.column;
        Err(DecodeError::Mismatch(format!("column {name} is {type_name}, expected {wanted}")))
    }

    fn expect(&self, encoding: Encoding, wanted: &str) -> Result<(), DecodeError> {
        if self.kind == (Kind { encoding, is_nullable: false }) { Ok(()) } else { self.refuse(wanted) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.bytes.take(N)?.try_into().expect("as many bytes were taken"))
    }

    fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        self.expect(Encoding::Text, "String")?;
        self.bytes.text()
    }
}

/// The methods for numbers: name, type, encoding.
macro_rules! numbers {
    ($($method:ident $visit:ident $number:ident $encoding:ident)*) => { $(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, DecodeError> {
            self.expect(Encoding::$encoding(size_of::<$number>()), stringify!($number))?;
            visitor.$visit($number::from_le_bytes(self.array()?))
        }
    )* };
}

/// The methods for types that no struct of ours has.
macro_rules! unsupported {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, DecodeError> {
            self.refuse("a type of Tapekeeper's tables")
        }
    )* };
}

impl<'de> de::Deserializer<'de> for ValueDeserializer<'_, '_> {
    type Error = DecodeError;

    numbers! {
        deserialize_i8 visit_i8 i8 Signed
        deserialize_i16 visit_i16 i16 Signed
        deserialize_i32 visit_i32 i32 Signed
        deserialize_i64 visit_i64 i64 Signed
        deserialize_i128 visit_i128 i128 Signed
        deserialize_u8 visit_u8 u8 Unsigned
        deserialize_u16 visit_u16 u16 Unsigned
        deserialize_u32 visit_u32 u32 Unsigned
        deserialize_u64 visit_u64 u64 Unsigned
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, DecodeError> {
        match std::str::from_utf8(self.text()?) {
            Ok(text) => visitor.visit_str(text),
            Err(_) => Err(DecodeError::Mismatch(format!("column {} is not UTF-8", self.column.name))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bytes(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, DecodeError> {
        if !self.kind.is_nullable {
            return self.refuse("a Nullable type");
        }
        match self.array()? {
            [0] => visitor.visit_some(Self { kind: Kind { is_nullable: false, ..self.kind }, ..self }),
            _ => visitor.visit_none(),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    unsupported! {
        deserialize_any deserialize_bool deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Record {
        symbol: String,
        position: i64,
        price: i128,
        flag: u8,
        at: Option<i64>,
    }

    const COLUMNS: [(&str, &str); 5] = [
        ("symbol", "LowCardinality(String)"),
        ("position", "Int64"),
        ("price", "Decimal(38, 18)"),
        ("flag", "UInt8"),
        ("at", "Nullable(DateTime64(6, 'UTC'))"),
    ];

    fn header(columns: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![columns.len() as u8];
        let texts = columns.iter().map(|column| column.0).chain(columns.iter().map(|column| column.1));
        for text in texts {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    fn body() -> Vec<u8> {
        let mut bytes = header(&COLUMNS);
        for at in [None, Some(9_i64)] {
            bytes.extend_from_slice(b"\x03ETH");
            bytes.extend_from_slice(&7_i64.to_le_bytes());
            bytes.extend_from_slice(&(-5_i128).to_le_bytes());
            bytes.push(1);
            bytes.push(u8::from(at.is_none()));
            at.iter().for_each(|at| bytes.extend_from_slice(&at.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn rows_are_decoded_by_the_names_and_types_of_their_columns() {
        let row = |at| Record { symbol: "ETH".to_owned(), position: 7, price: -5, flag: 1, at };
        assert_eq!(rows(&body()), Ok(vec![row(None), row(Some(9))]));
        assert_eq!(rows::<Record>(&header(&COLUMNS)), Ok(vec![]));
        let mut one = header(&[("version()", "String")]);
        one.extend_from_slice(b"\x0424.8");
        assert_eq!(rows(&one), Ok(vec!["24.8".to_owned()]));
    }

    /// Neither fewer rows nor other values: a cut inside a row or inside the header is an error.
    #[test]
    fn a_cut_answer_is_an_error() {
        let (whole, header) = (body(), header(&COLUMNS).len());
        let row = (whole.len() - header - 8) / 2;
        for end in (0..whole.len()).filter(|end| ![header, header + row].contains(end)) {
            assert_eq!(rows::<Record>(&whole[..end]), Err(DecodeError::Cut), "{end}");
        }
    }

    #[test]
    fn another_column_or_type_is_named() {
        let with = |at: usize, column: (&'static str, &'static str)| {
            let mut columns = COLUMNS;
            columns[at] = column;
            let mut bytes = header(&columns);
            bytes.extend_from_slice(&[0; 64]);
            rows::<Record>(&bytes).unwrap_err().to_string()
        };
        assert!(with(1, ("direction", "Int64")).contains("direction"));
        assert!(with(2, ("price", "String")).contains("column price is String"));
        assert!(with(1, ("position", "Nullable(Int64)")).contains("column position is Nullable(Int64)"));
        assert!(with(3, ("flag", "Array(UInt8)")).contains("column flag has the unknown type"));
    }

    #[test]
    fn a_page_of_a_proxy_is_no_answer() {
        for page in ["<html><body>502</body></html>", "", "Ok.\n", "Code: 241. DB::Exception: Memory limit exceeded"] {
            assert!(rows::<i64>(page.as_bytes()).is_err(), "{page}");
        }
    }
}
