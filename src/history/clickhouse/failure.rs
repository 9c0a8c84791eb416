//! Classifies the errors of ClickHouse and of the network by what the caller must do.
//!
//! An unknown error is `Unavailable`: a temporary condition must never make a row a dead letter or stop the recorder.

use clickhouse::error::Error;

use crate::history::HistoryError;

/// Error codes that concern the values of rows.
const ABOUT_ROWS: [u32; 13] = [
    6,   // CANNOT_PARSE_TEXT
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    131, // TOO_LARGE_STRING_SIZE
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    407, // DECIMAL_OVERFLOW
    469, // VIOLATED_CONSTRAINT
];
/// Error codes that mean that the tables or the server do not match this program.
const ABOUT_SCHEMA: [u32; 12] = [
    8,   // THERE_IS_NO_COLUMN
    10,  // NOT_FOUND_COLUMN_IN_BLOCK
    16,  // NO_SUCH_COLUMN_IN_TABLE
    20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
    36,  // BAD_ARGUMENTS
    44,  // ILLEGAL_COLUMN
    47,  // UNKNOWN_IDENTIFIER
    50,  // UNKNOWN_TYPE
    53,  // TYPE_MISMATCH
    60,  // UNKNOWN_TABLE
    81,  // UNKNOWN_DATABASE
    115, // UNKNOWN_SETTING
];

/// Classifies an error of the client crate.
pub(super) fn classify(error: Error) -> HistoryError {
    match error {
        Error::BadResponse(text) => classify_response(text),
        Error::SchemaMismatch(_) | Error::InvalidColumnsHeader(_) => HistoryError::Schema(error.to_string()),
        Error::Unsupported(_) | Error::InvalidParams(_) => HistoryError::Schema(error.to_string()),
        other => HistoryError::Unavailable(with_sources(&other)),
    }
}

fn classify_response(text: String) -> HistoryError {
    let Some(code) = code(&text) else { return HistoryError::Unavailable(text) };
    // The types of an insert differ from the table's: another program changed the columns, the rows are not wrong.
    let is_type = code == 117 && text.contains("Type of '");
    if is_type || ABOUT_SCHEMA.contains(&code) {
        HistoryError::Schema(text)
    } else if ABOUT_ROWS.contains(&code) {
        HistoryError::Data(text)
    } else {
        HistoryError::Unavailable(text)
    }
}

/// The error code 60 in `Code: 60. DB::Exception: ...`.
fn code(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("Code: ")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// The message with those of its sources: the outermost one does not contain "connection refused".
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let error = classify(Error::BadResponse(text.to_owned()));
        let kind = match &error {
            HistoryError::Unavailable(_) => "unavailable",
            HistoryError::Data(_) => "data",
            HistoryError::Schema(_) => "schema",
        };
        assert_eq!(kind, expected, "{text}");
    }

    #[test]
    fn an_error_is_classified_by_its_code_and_unavailable_without_one() {
        check("Code: 252. DB::Exception: Too many parts (300). Merges are slower. (TOO_MANY_PARTS)", "unavailable");
        check("Code: 241. DB::Exception: Memory limit exceeded (MEMORY_LIMIT_EXCEEDED)", "unavailable");
        check("Code: 159. DB::Exception: Timeout exceeded (TIMEOUT_EXCEEDED)", "unavailable");
        check("Code: 516. DB::Exception: default: Authentication failed", "unavailable");
        check("500 Internal Server Error", "unavailable");
        check("<html>502 Bad Gateway</html>", "unavailable");
        check("Code: 60. DB::Exception: Table t.trades does not exist. (UNKNOWN_TABLE)", "schema");
        check("Code: 117. DB::Exception: Type of 'price' must be String, not Decimal(38, 18)", "schema");
        check("Code: 117. DB::Exception: Unexpected value. (INCORRECT_DATA)", "data");
        check("Code: 469. DB::Exception: Constraint `x` is violated. (VIOLATED_CONSTRAINT)", "data");
    }
}
