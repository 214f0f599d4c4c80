//! A hash that is the same on every machine and in every release: part of what a digest means.
//!
//! Digests of sets are sums of their members' hashes, so that they are kept up by adding and subtracting, in any order. It
//! finds damage and disagreement, not forgery.

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;

/// Hashes bytes, sixteen at a time, by folded multiplication.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut state = K0;
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        let (low, high) = chunk.split_at(8);
        state = fold(word(low) ^ state, word(high) ^ K1);
    }
    let rest = chunks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    fold(fold(word(low) ^ state, word(high) ^ K1) ^ bytes.len() as u64, K0)
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

// Never 0 on one side, as a zero would swallow the other.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a | u64::from(a == 0)) * u128::from(b | u64::from(b == 0));
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn bytes_that_differ_in_a_bit_or_in_length_hash_differently() {
        let mut seen = BTreeSet::new();
        let mut total = 0;
        for length in 0..80 {
            let zeros = vec![0u8; length];
            seen.insert(hash(&zeros));
            total += 1;
            for bit in 0..length * 8 {
                let mut flipped = zeros.clone();
                flipped[bit / 8] |= 1 << (bit % 8);
                seen.insert(hash(&flipped));
                total += 1;
            }
        }
        assert_eq!(seen.len(), total);
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xd79b_0957_4bb4_eca3);
    }
}
