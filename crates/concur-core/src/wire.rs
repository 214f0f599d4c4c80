//! The binary encoding of everything that is persisted or sent.
//!
//! Fixed-width little-endian integers, lengths as varints, enums by a leading tag byte. A [`Reader`] holds a [`Bytes`], so that
//! payloads are sliced out of the frame they came in, never copied; every length is checked against what is left before memory
//! is taken. Decoding never panics: what is wrong is [`Malformed`].
//!
//! There is no derive macro: [`wire_struct!`](crate::wire_struct) and [`wire_enum!`](crate::wire_enum) list the fields, in the
//! order in which they are written. Versions belong to the envelope around a message or record, not to each value.

use bytes::Bytes;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Bytes that are not an encoding of the type asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.what)
    }
}

impl std::error::Error for Malformed {}

/// A value that can be persisted and sent.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one value.
    fn get(r: &mut Reader) -> Result<Self, Malformed>;

    /// The encoding as bytes of its own.
    fn to_bytes(&self) -> Bytes {
        encoded(|out| self.put(out))
    }

    /// Reads a value that must fill `bytes` exactly.
    fn from_bytes(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes.clone());
        let value = Self::get(&mut r)?;
        r.finish()?;
        Ok(value)
    }
}

/// Reads values from the front of a [`Bytes`].
#[derive(Debug, Clone)]
pub struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.left() == 0
    }

    /// Everything must have been read.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed { what: "trailing bytes" }) }
    }

    /// The next `n` bytes, sliced without a copy.
    pub fn slice(&mut self, n: usize) -> Result<Bytes, Malformed> {
        if n > self.left() {
            return Err(Malformed { what: "length" });
        }
        let out = self.bytes.slice(self.at..self.at + n);
        self.at += n;
        Ok(out)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let b = *self.bytes.get(self.at).ok_or(Malformed { what: "byte" })?;
        self.at += 1;
        Ok(b)
    }

    /// The next `N` bytes, copied.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        if N > self.left() {
            return Err(Malformed { what: "integer" });
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        Ok(out)
    }

    /// A variable-length unsigned integer (LEB128, at most ten bytes).
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            if shift == 63 && b > 1 {
                return Err(Malformed { what: "varint" });
            }
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed { what: "varint" })
    }

    /// The number of elements that follow, each of which takes at least `least` bytes.
    pub fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let n = usize::try_from(self.varint()?).map_err(|_| Malformed { what: "count" })?;
        if n.saturating_mul(least.max(1)) > self.left() {
            return Err(Malformed { what: "count" });
        }
        Ok(n)
    }
}

thread_local! {
    /// Space to encode in; it holds nothing between two encodings.
    static SPACE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest space that is kept.
const SPACE_BYTES_KEPT: usize = 64 << 10;

/// What `put` appends, as bytes of its own: one allocation of just that size. A vector that grows and becomes [`Bytes`] takes two
/// or more, and keeps what it did not fill.
pub fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = SPACE.take();
    put(&mut out);
    if out.capacity() > SPACE_BYTES_KEPT {
        return Bytes::from(out);
    }
    let bytes = Bytes::copy_from_slice(&out);
    out.clear();
    SPACE.set(out);
    bytes
}

/// Appends a variable-length unsigned integer.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

macro_rules! fixed {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(r: &mut Reader) -> Result<Self, Malformed> {
                Ok(<$t>::from_le_bytes(r.array()?))
            }
        }
    )*};
}
fixed!(u8, u16, u32, i64);

impl Wire for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(*self, out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        r.varint()
    }
}

impl Wire for u128 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self::from_le_bytes(r.array()?))
    }
}

impl Wire for () {
    fn put(&self, _: &mut Vec<u8>) {}
    fn get(_: &mut Reader) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        match r.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed { what: "bool" }),
        }
    }
}

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        out.extend_from_slice(self);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let n = r.count(1)?;
        r.slice(n)
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let n = r.count(1)?;
        String::from_utf8(r.slice(n)?.to_vec()).map_err(|_| Malformed { what: "text" })
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(if bool::get(r)? { Some(T::get(r)?) } else { None })
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        for value in self {
            value.put(out);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        // An element may be empty on the wire (`()`), so memory grows as elements are really read.
        let n = r.count(1)?;
        let mut out = Vec::with_capacity(n.min(1024));
        for _ in 0..n {
            out.push(T::get(r)?);
        }
        Ok(out)
    }
}

impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        for value in self {
            value.put(out);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let n = r.count(1)?;
        (0..n).map(|_| T::get(r)).collect()
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let n = r.count(1)?;
        (0..n).map(|_| Ok((K::get(r)?, V::get(r)?))).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok((A::get(r)?, B::get(r)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok((A::get(r)?, B::get(r)?, C::get(r)?))
    }
}

/// Implements [`Wire`] for a struct with named fields, written in the order listed.
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let _ = &out;
                $($crate::Wire::put(&self.$field, out);)*
            }
            fn get(r: &mut $crate::Reader) -> Result<Self, $crate::Malformed> {
                let _ = &r;
                Ok(Self { $($field: $crate::Wire::get(r)?),* })
            }
        }
    };
}

/// Implements [`Wire`] for a newtype around one field.
#[macro_export]
macro_rules! wire_newtype {
    ($($name:ident),* $(,)?) => {$(
        impl $crate::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::Wire::put(&self.0, out);
            }
            fn get(r: &mut $crate::Reader) -> Result<Self, $crate::Malformed> {
                Ok(Self($crate::Wire::get(r)?))
            }
        }
    )*};
}

/// Implements [`Wire`] for an enum whose variants have named fields, or none: `wire_enum!(Message { 0 => Vote { term }, 1 => Ping {} })`.
/// A tuple variant of one field is listed as `2 => Append(body)`.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(( $inner:ident ))?),* $(,)? }) => {
        impl $crate::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(( $inner ))? => {
                        out.push($tag);
                        $($($crate::Wire::put($field, out);)*)?
                        $($crate::Wire::put($inner, out);)?
                    })*
                }
            }
            fn get(r: &mut $crate::Reader) -> Result<Self, $crate::Malformed> {
                match r.byte()? {
                    $($tag => {
                        $($(let $field = $crate::Wire::get(r)?;)*)?
                        $(let $inner = $crate::Wire::get(r)?;)?
                        Ok(Self::$variant $({ $($field),* })? $(( $inner ))?)
                    })*
                    _ => Err($crate::Malformed { what: stringify!($name) }),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Sample {
        Empty,
        Pair { a: u64, b: Bytes },
        One(String),
    }
    wire_enum!(Sample { 0 => Empty, 1 => Pair { a, b }, 2 => One(text) });

    #[test]
    fn what_is_written_is_read() {
        for value in [Sample::Empty, Sample::Pair { a: u64::MAX, b: Bytes::from_static(b"xyz") }, Sample::One("é".into())] {
            assert_eq!(Sample::from_bytes(&value.to_bytes()), Ok(value));
        }
        let nested: Vec<(u64, Option<Bytes>)> = vec![(1, None), (300, Some(Bytes::from_static(b"")))];
        assert_eq!(Vec::from_bytes(&nested.to_bytes()), Ok(nested));
    }

    #[test]
    fn every_truncation_is_malformed_and_lengths_are_checked_first() {
        let whole = Sample::Pair { a: 77, b: Bytes::from_static(b"payload") }.to_bytes();
        for n in 0..whole.len() {
            assert!(Sample::from_bytes(&whole.slice(..n)).is_err(), "{n}");
        }
        let huge = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert!(Vec::<u64>::from_bytes(&huge).is_err());
        assert!(Bytes::from_bytes(&huge).is_err());
        assert!(Sample::from_bytes(&Bytes::from_static(&[9])).is_err());
    }
}
