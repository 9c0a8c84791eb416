//! ClickHouse's own compressed blocks (the parameter `decompress=1`), with LZ4.
//!
//! A block is 16 bytes of checksum, the method, the size of the block without the checksum, the size of the data, and
//! the compressed data. Sizes are little-endian numbers of 32 bits.

use lz4_flex::block;

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const LZ4: u8 = 0x82;
/// Bytes of data of one block: the server decompresses block by block.
const BLOCK_BYTES: usize = 1 << 20;

/// Compresses `data`.
pub(super) fn compress(data: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(data.len() / 2);
    let mut buffer = vec![0; block::get_maximum_output_size(BLOCK_BYTES)];
    for part in data.chunks(BLOCK_BYTES) {
        let size = block::compress_into(part, &mut buffer).expect("the buffer has the largest size of a block");
        let begin = compressed.len();
        compressed.extend_from_slice(&[0; CHECKSUM_BYTES]);
        compressed.push(LZ4);
        compressed.extend_from_slice(&size_of(HEADER_BYTES + size));
        compressed.extend_from_slice(&size_of(part.len()));
        compressed.extend_from_slice(&buffer[..size]);
        // The two halves of the hash are in the other order.
        let checksum = cityhash_rs::cityhash_102_128(&compressed[begin + CHECKSUM_BYTES..]).rotate_right(64);
        compressed[begin..begin + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }
    compressed
}

fn size_of(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a block is smaller than 2 MiB").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_decompress_to_the_data() {
        let data: Vec<u8> = (0..BLOCK_BYTES + 77).map(|at| (at / 3) as u8).collect();
        let compressed = compress(&data);
        let (mut rest, mut blocks) = (&compressed[..], Vec::new());
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(rest[16], LZ4);
            let (end, raw) = (CHECKSUM_BYTES + number(17), number(21));
            blocks.push(block::decompress(&rest[25..end], raw).unwrap());
            rest = &rest[end..];
        }
        assert_eq!((blocks.len(), blocks.concat() == data), (2, true));
    }

    /// The server refuses a wrong checksum; tests against a real server prove the rest.
    #[test]
    fn the_checksum_is_the_one_of_clickhouse() {
        assert_eq!(
            compress(b"a")[..16],
            cityhash_rs::cityhash_102_128(&compress(b"a")[16..]).rotate_right(64).to_le_bytes()
        );
        assert!(compress(b"").is_empty());
    }
}
