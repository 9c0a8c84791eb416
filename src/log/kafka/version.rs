//! Finds the release of a Kafka broker. librdkafka does not report it, but a broker names the newest metadata version
//! that it supports, and each release has its own.
//!
//! This file encodes one request by hand, ApiVersions 3: <https://kafka.apache.org/protocol#The_Messages_ApiVersions>.
//! It works only with brokers without TLS and SASL.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The longest time for each network step.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// A larger response is not from a broker.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The releases with the first metadata version of each.
const RELEASES: [(i16, &str); 13] = [
    (1, "3.0"),
    (2, "3.1"),
    (3, "3.2"),
    (4, "3.3"),
    (8, "3.4"),
    (9, "3.5"),
    (12, "3.6"),
    (15, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (22, "4.0"),
    (26, "4.1"),
    (28, "4.2"),
];

/// The release of the broker at `address` (`host:port`); `None` if it does not respond or the release is unknown.
/// Blocks.
pub(super) fn release(address: &str) -> Option<&'static str> {
    let answer = request_api_versions(address).ok()?;
    let newest = metadata_version(&answer)?;
    RELEASES.iter().rev().find(|(first, _)| newest >= *first).map(|(_, release)| *release)
}

/// Whether the address accepts connections. Blocks.
pub(super) fn listens(address: &str) -> bool {
    connect(address).is_ok()
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let unreachable = || std::io::Error::from(std::io::ErrorKind::HostUnreachable);
    let address = address.to_socket_addrs()?.next().ok_or_else(unreachable)?;
    TcpStream::connect_timeout(&address, ANSWER_MAX)
}

fn request_api_versions(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    // ApiVersions (18), version 3, correlation 1, client "tk", no tags; name "tk" and version "1", compact; no tags.
    let request: &[u8] = &[0, 18, 0, 3, 0, 0, 0, 1, 0, 2, b't', b'k', 0, 3, b't', b'k', 2, b'1', 0];
    stream.write_all(&(request.len() as u32).to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The highest version of the feature `metadata.version` in a response.
fn metadata_version(answer: &[u8]) -> Option<i16> {
    let mut bytes = Bytes(answer);
    // Correlation and error code.
    bytes.take(6)?;
    for _ in 1..bytes.number()? {
        // Key, lowest, highest.
        bytes.take(6)?;
        bytes.tags()?;
    }
    // Throttle.
    bytes.take(4)?;
    for _ in 0..bytes.number()? {
        let (tag, size) = (bytes.number()?, bytes.number()?);
        let mut field = Bytes(bytes.take(size)?);
        // Tag 0: the supported features.
        if tag != 0 {
            continue;
        }
        for _ in 1..field.number()? {
            let length = field.number()?.checked_sub(1)?;
            let name = field.take(length)?;
            field.take(2)?;
            let highest = field.take(2)?;
            field.tags()?;
            if name == b"metadata.version" {
                return Some(i16::from_be_bytes([highest[0], highest[1]]));
            }
        }
    }
    None
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned varint: seven bits per byte, the lowest first.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for index in 0..5 {
            let byte = self.take(1)?[0];
            number |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.number()? {
            self.number()?;
            let size = self.number()?;
            self.take(size)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response with one API and one feature.
    fn answer(feature: &[u8], highest: i16) -> Vec<u8> {
        let mut field = vec![2, feature.len() as u8 + 1];
        field.extend(feature);
        field.extend([0, 1]);
        field.extend(highest.to_be_bytes());
        field.push(0);
        let mut answer = vec![0, 0, 0, 1, 0, 0, 2, 0, 18, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 0, field.len() as u8];
        answer.extend(field);
        answer
    }

    #[test]
    fn the_newest_metadata_version_is_found() {
        assert_eq!(metadata_version(&answer(b"metadata.version", 27)), Some(27));
        assert_eq!(metadata_version(&answer(b"group.version", 1)), None);
    }

    #[test]
    fn a_truncated_response_has_no_version() {
        let whole = answer(b"metadata.version", 27);
        for length in 0..whole.len() - 3 {
            assert_eq!(metadata_version(&whole[..length]), None, "{length}");
        }
    }
}
