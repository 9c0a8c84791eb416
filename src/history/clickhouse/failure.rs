//! Classifies the errors of ClickHouse and of the network by what the caller must do.
//!
//! An unknown error is `Unavailable`: a temporary condition must never make a row a dead letter or stop the recorder. So
//! is a table or column that somebody has changed or dropped (codes 16, 60, 81 and others): the server names it, rows
//! wait in the log, and the recorder continues when it is back.

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
/// The longest text of an error that is kept.
pub(super) const TEXT_CHARS_MAX: usize = 4_096;

/// An answer that reports an error: its status, the code of its header if it has one, and its body.
pub(super) fn of_answer(status: reqwest::StatusCode, code: Option<&str>, text: &str) -> HistoryError {
    let text = match (text, code) {
        ("", Some(code)) => format!("Code: {code}"),
        ("", None) => status.to_string(),
        (text, _) if code.is_some() || text.starts_with("Code: ") => text.to_owned(),
        (text, _) => format!("{status}: {text}"),
    };
    // Without the header the answer may be a proxy's. Only ClickHouse itself can refuse rows.
    let Some(code) = code.and_then(|code| code.trim().parse().ok()) else { return HistoryError::Unavailable(text) };
    // The types of an insert differ from the table's: another program changed the columns, the rows are not wrong.
    let is_type = code == 117 && text.contains("Type of '");
    if ABOUT_ROWS.contains(&code) && !is_type { HistoryError::Data(text) } else { HistoryError::Unavailable(text) }
}

/// An answer that did not arrive, or not whole.
pub(super) fn of_network(error: reqwest::Error) -> HistoryError {
    // The URL contains the whole statement.
    HistoryError::Unavailable(with_sources(&error.without_url()))
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
        let code = text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
        let error = of_answer(reqwest::StatusCode::INTERNAL_SERVER_ERROR, code, text);
        let kind = if matches!(error, HistoryError::Data(_)) { "data" } else { "unavailable" };
        assert_eq!(kind, expected, "{text}");
        assert!(!error.is_outage() || error.to_string().contains(text), "{error}");
    }

    #[test]
    fn an_error_is_classified_by_its_code_and_unavailable_without_one() {
        check("Code: 252. DB::Exception: Too many parts (300). Merges are slower. (TOO_MANY_PARTS)", "unavailable");
        check("Code: 241. DB::Exception: Memory limit exceeded (MEMORY_LIMIT_EXCEEDED)", "unavailable");
        check("Code: 159. DB::Exception: Timeout exceeded (TIMEOUT_EXCEEDED)", "unavailable");
        check("Code: 516. DB::Exception: default: Authentication failed", "unavailable");
        check("500 Internal Server Error", "unavailable");
        check("<html>502 Bad Gateway</html>", "unavailable");
        check("Code: 60. DB::Exception: Table t.trades does not exist. (UNKNOWN_TABLE)", "unavailable");
        check("Code: 16. DB::Exception: No such column side in table t.trades", "unavailable");
        check("Code: 81. DB::Exception: Database t does not exist. (UNKNOWN_DATABASE)", "unavailable");
        check("Code: 117. DB::Exception: Type of 'price' must be String, not Decimal(38, 18)", "unavailable");
        check("Code: 117. DB::Exception: Unexpected value. (INCORRECT_DATA)", "data");
        check("Code: 469. DB::Exception: Constraint `x` is violated. (VIOLATED_CONSTRAINT)", "data");
    }

    #[test]
    fn only_the_servers_own_answer_refuses_rows() {
        let text = "Code: 117. DB::Exception: Unexpected value. (INCORRECT_DATA)";
        let of_proxy = of_answer(reqwest::StatusCode::BAD_REQUEST, None, text);
        assert!(matches!(of_proxy, HistoryError::Unavailable(_)), "{of_proxy}");
    }
}
