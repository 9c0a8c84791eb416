//! Rust source as the rules read it: without comments, without quoted text, without tests; and the paths in it.

use std::ops::Range;

/// The same text with comments and everything in quotes blanked; lines and columns stay.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes.get(at + 1) == Some(&b'*') => find(bytes, at, b"*/").map_or(bytes.len(), |end| end + 2),
            b'r' if raw(bytes, at).is_some() => raw(bytes, at).expect("just matched"),
            b'"' => quoted(bytes, at),
            b'\'' => character(bytes, at),
            _ => at + 1,
        };
        if end > at + 1 {
            blank(&mut out, at..end);
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

/// The opposite of [`code`]: only comments and quoted texts, with a `;` for every other character.
pub fn prose(text: &str) -> String {
    let blanked = code(text);
    let kept = |(at, character): (usize, char)| match blanked.as_bytes()[at] {
        b' ' | b'\n' => character,
        _ => ';',
    };
    text.char_indices().map(kept).collect()
}

fn blank(out: &mut [u8], span: Range<usize>) {
    for byte in &mut out[span] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|found| from + found)
}

/// The end of a raw text that begins here.
fn raw(bytes: &[u8], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    // `br"` begins a raw text too; after any other letter the `r` is the end of a name.
    if (before != b'b' && is_name(before)) || bytes.get(at + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    find(bytes, at + 2 + hashes, &close).map(|end| end + close.len())
}

fn quoted(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// The end of a quoted character; the end of the quote itself for a lifetime.
fn character(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return find(bytes, at + 3, b"'").map_or(bytes.len(), |end| end + 1);
    }
    // A character has four bytes at most.
    let close = (at + 2..=at + 5).find(|end| bytes.get(*end) == Some(&b'\''));
    match close {
        Some(end) if !is_name(bytes[at + 1]) || end == at + 2 || bytes[at + 1] >= 0x80 => end + 1,
        _ => at + 1,
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Code without the items marked `#[cfg(test)]`.
pub fn without_tests(code: &str) -> String {
    let mark = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(start) = code[from..].find(mark).map(|found| from + found) {
        let bytes = code.as_bytes();
        // An item ends with its first semicolon, or with the brace that closes its first one.
        let mut depth = 0;
        let end = (start + mark.len()..bytes.len()).find(|at| {
            match bytes[*at] {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(bytes[*at], b';' | b'}')
        });
        let end = end.map_or(bytes.len(), |end| end + 1);
        blank(&mut out, start..end);
        from = end;
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

/// Every path that begins with `start::`, without it, groups flattened: `crate::{a, b::{c, d}}` -> a, b::c, b::d.
pub fn paths(code: &str, start: &str) -> Vec<String> {
    let needle = format!("{start}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&needle) {
        let before = at.checked_sub(1).map_or(b' ', |before| code.as_bytes()[before]);
        if !is_name(before) && before != b':' {
            flatten(&code[at + needle.len()..], "", &mut found);
        }
    }
    found
}

/// Adds the paths of one tree to `found` and returns what follows it.
fn flatten<'a>(tree: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let mut rest = tree.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        rest = group.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            let after = flatten(rest, prefix, found).trim_start();
            // Over `as name` to the comma.
            let next = after.find([',', '}']).unwrap_or(after.len());
            rest = after[next..].trim_start_matches(',').trim_start();
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    rest = &rest[name.len()..];
    let path = if prefix.is_empty() { name } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(below) => flatten(below, &path, found),
        None => {
            found.push(path);
            rest
        }
    }
}

#[test]
fn comments_and_texts_are_not_code() {
    let text = "let a = \"crate::config\"; // crate::app\n/* crate::cli */ let b = r#\"crate::\"x\"#; let c = '\"'; fn f<'a>() {} let d = br\"crate::x\";";
    let code = code(text);
    assert!(!code.contains("crate"), "{code}");
    assert!(code.contains("fn f<'a>() {}") && code.contains("let d"), "{code}");
    assert_eq!(code.len(), text.len());
}

#[test]
fn tests_are_cut_with_their_braces() {
    let text = "use a;\n#[cfg(test)]\nmod tests { fn x() { if a { b() } } }\n#[cfg(test)]\nmod more;\nfn kept() {}";
    let cut = without_tests(&code(text));
    assert!(cut.contains("use a;") && cut.contains("fn kept() {}"), "{cut}");
    assert!(!cut.contains("tests") && !cut.contains("more"), "{cut}");
}

#[test]
fn groups_are_flattened() {
    let code = "use crate::{log, history::{self as h, embedded::{A, B}}, cache};\nlet x = crate::gap::Range::new(); not_crate::y";
    let expected = ["log", "history::self", "history::embedded::A", "history::embedded::B", "cache", "gap::Range::new"];
    assert_eq!(paths(code, "crate"), expected);
}
