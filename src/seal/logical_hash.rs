//! The hash of a set of rows: the same for the same rows, whatever their order and the file that holds them.

use ring::digest;

/// The sum modulo 2^256 of the SHA-256 of each row's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogicalHash {
    /// The sum, the least significant part first.
    limbs: [u64; 4],
}

impl LogicalHash {
    /// Adds the line of a row.
    pub fn add(&mut self, line: &str) {
        let hash = digest::digest(&digest::SHA256, line.as_bytes());
        let mut carry = false;
        // The hash is a big-endian number.
        for (limb, part) in self.limbs.iter_mut().zip(hash.as_ref().rchunks_exact(8)) {
            let part = part.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let (sum, over) = limb.overflowing_add(part);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || over_again);
        }
    }

    /// 64 small hexadecimal digits.
    pub fn hex(&self) -> String {
        self.limbs.iter().rev().map(|limb| format!("{limb:016x}")).collect()
    }
}

/// The SHA-256 of these bytes, as 64 small hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Small hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_one_line_is_its_sha256_and_of_none_is_zero() {
        assert_eq!(LogicalHash::default().hex(), "0".repeat(64));
        let mut hash = LogicalHash::default();
        hash.add("abc");
        assert_eq!(hash.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.hex(), sha256(b"abc"));
    }

    #[test]
    fn the_sum_carries_wraps_and_ignores_the_order() {
        let lines: Vec<String> = (0..1_000).map(|at| format!("binance|BTCUSDT|0|{at}")).collect();
        let (mut forward, mut backward) = (LogicalHash::default(), LogicalHash::default());
        lines.iter().for_each(|line| forward.add(line));
        lines.iter().rev().for_each(|line| backward.add(line));
        assert_eq!(forward, backward);
        // The same sum, digit by digit.
        let mut digits = vec![0_u32; 64];
        for line in &lines {
            let mut carry = 0;
            for (digit, add) in digits.iter_mut().rev().zip(sha256(line.as_bytes()).chars().rev()) {
                let sum = *digit + add.to_digit(16).unwrap() + carry;
                (*digit, carry) = (sum % 16, sum / 16);
            }
        }
        let expected: String = digits.iter().map(|digit| char::from_digit(*digit, 16).unwrap()).collect();
        assert_eq!(forward.hex(), expected);
        let mut more = forward;
        more.add("one more");
        assert_ne!(more, forward);
    }
}
