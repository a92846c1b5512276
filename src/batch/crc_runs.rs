//! Payloads of one length, if they are short, are checked many at a time by whoever reads them in
//! order.
//!
//! To begin and to end a checksum takes time of its own: of 1 KiB half, of 128 B more. CRC-32 is
//! linear: that of two strings, one behind the other, is that of the first, moved by the length of
//! the second, plus that of the second. So the checksums that the payloads of a run should have say
//! which one all of their bytes together must have, and these are gone through once. (To move is to
//! multiply by a power of x modulo the polynomial, as `crc32_combine` of
//! [zlib](https://github.com/madler/zlib/blob/develop/crc32.c) does.) Measured on an x86-64 with
//! AVX-512, in runs of 1,024: 128 B 16 to 7 ns a payload, 1 KiB 44 to 22, 4 KiB 97 to 75; of mixed
//! lengths as before.
//!
//! One damaged payload is noticed as surely as by its own checksum: what it adds is moved, and no
//! move makes a sum vanish. Several could make up for each other, as likely as a damaged one has
//! the right checksum, 1 in 2^32. The same damage in two of a run never does: the polynomial is
//! primitive, so no two places less than 512 MiB apart look the same to it. But they can be made
//! to: so what comes from a peer or is put in place of what was lost is checked payload by payload
//! ([`Batch::verify`](super::Batch::verify)), and whatever passes once gives every entry.

use std::fmt;
use std::ops::Range;

use super::{TABLE_ENTRY_BYTES, read_u32};

/// So many payloads should be checked one by one where no run begins, before the next one is looked
/// for: to look takes a fifth as long as a short checksum.
pub(super) const ALONE: usize = 16;

/// How many payloads from the first of `slots` on are as long as that, which lies at `first`, and
/// end at `reach` or before. At least that one.
pub(super) fn length(slots: &[u8], first: Range<usize>, reach: usize) -> usize {
    let mut end = first.end;
    let is_next = |slot: &&[u8]| {
        let next = read_u32(slot, 0) as usize;
        let is_as_long = next.checked_sub(end) == Some(first.len()) && next <= reach;
        end = next;
        is_as_long
    };
    1 + slots.chunks_exact(TABLE_ENTRY_BYTES).skip(1).take_while(is_next).count()
}

/// CRC-32 (IEEE), its bits reversed: the highest is the power 0 of x.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// Moves checksums by one length.
pub(crate) struct CrcShift {
    bytes: usize,
    /// What each hexadecimal digit amounts to, in each of its places. To move is linear too.
    digits: [[u32; 16]; 8],
}

impl CrcShift {
    /// The shift for a run of so many payloads of so many `bytes`, if to go through it once takes
    /// less time than to check each alone: `kept`, or a new one.
    ///
    /// Nothing is known of payloads without bytes from the bytes of all.
    pub(super) fn worth_while(
        kept: &mut Option<CrcShift>,
        bytes: usize,
        payloads: usize,
    ) -> Option<&CrcShift> {
        let is_kept = kept.as_ref().is_some_and(|shift| shift.bytes == bytes);
        // Measured: a new one takes as long as it spares with 14 to 16.
        let least = if is_kept { 4 } else { 16 };
        if bytes == 0 || payloads < least {
            return None;
        }
        if !is_kept {
            *kept = Some(CrcShift::by(bytes));
        }
        kept.as_ref()
    }

    pub(super) fn by(bytes: usize) -> CrcShift {
        let mut power = power_of_x(bytes as u64 * 8);
        let mut digits = [[0; 16]; 8];
        for place in (0..32).rev() {
            let (digit, bit) = (&mut digits[place / 4], 1 << (place % 4));
            digit[bit] = power;
            power = times_x(power);
        }
        for digit in &mut digits {
            for value in 1..16_usize {
                let lowest = value & value.wrapping_neg();
                digit[value] = digit[lowest] ^ digit[value ^ lowest];
            }
        }
        CrcShift { bytes, digits }
    }

    /// What `crc` amounts to in the checksum of a string that goes on for so many bytes.
    #[inline]
    fn apply(&self, crc: u32) -> u32 {
        let digit = |place: usize| self.digits[place][(crc >> (4 * place)) as usize & 15];
        (digit(0) ^ digit(1))
            ^ (digit(2) ^ digit(3))
            ^ ((digit(4) ^ digit(5)) ^ (digit(6) ^ digit(7)))
    }

    /// The checksum of payloads of this length, one behind the other, that have these.
    #[inline]
    pub(super) fn joined(&self, crcs: impl Iterator<Item = u32>) -> u32 {
        crcs.fold(0, |joined, crc| self.apply(joined) ^ crc)
    }
}

/// Readers that are shown hold one.
impl fmt::Debug for CrcShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shift").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

const fn times_x(value: u32) -> u32 {
    (value >> 1) ^ ((value & 1) * POLYNOMIAL)
}

const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= ((a >> bit) & 1) * b;
        b = times_x(b);
    }
    product
}

/// x to the power of 1, 2, 4, 8 and so on.
const SQUARES: [u32; 64] = {
    let mut squares = [1 << 30; 64];
    let mut at = 1;
    while at < squares.len() {
        squares[at] = times(squares[at - 1], squares[at - 1]);
        at += 1;
    }
    squares
};

fn power_of_x(exponent: u64) -> u32 {
    let squares = SQUARES.iter().enumerate().filter(|(bit, _)| (exponent >> bit) & 1 == 1);
    squares.fold(1 << 31, |power, (_, square)| times(power, *square))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_checksums_are_the_checksum_of_the_joined() {
        for bytes in [1, 2, 7, 128, 1000, 1024, 65_537] {
            let all: Vec<u8> = (0..bytes * 19).map(|at| (at * at * 31 + at / 255) as u8).collect();
            let joined = CrcShift::by(bytes).joined(all.chunks(bytes).map(crc32fast::hash));
            assert_eq!(joined, crc32fast::hash(&all), "{bytes} bytes");
        }
    }
}
