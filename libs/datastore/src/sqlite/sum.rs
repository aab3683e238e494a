//! Checksums: what a damaged page made of a row is never taken for the row.
//!
//! SQLite has none for its pages. A row has one of its own, of two halves, so that a row can be verified without its value, which
//! may be large. A set of rows has a running total of theirs ([`Total`]), which tells what no row can: that one is missing, or an
//! older copy of itself.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};

/// The checksum of one row: CRC-32 of its value below, CRC-32 of everything else and of that above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Of a row with this name and these numbers. Rows of different tables have different amounts of numbers.
    pub(super) fn of(name: &[u8], numbers: &[u64], value: &[u8]) -> Self {
        let value = crc32fast::hash(value);
        Self(u64::from(head(name, numbers, value)) << 32 | u64::from(value))
    }

    /// Whether the name and the numbers are those that were written.
    pub(super) fn covers_head(self, name: &[u8], numbers: &[u64]) -> bool {
        head(name, numbers, self.of_value()) == (self.0 >> 32) as u32
    }

    pub(super) fn covers_value(self, value: &[u8]) -> bool {
        crc32fast::hash(value) == self.of_value()
    }

    fn of_value(self) -> u32 {
        self.0 as u32
    }
}

fn head(name: &[u8], numbers: &[u64], value: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(name);
    for number in numbers {
        crc.update(&number.to_le_bytes());
    }
    crc.update(&value.to_le_bytes());
    crc.finalize()
}

impl ToSql for Sum {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.cast_signed().into())
    }
}

impl FromSql for Sum {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(value.as_i64()?.cast_unsigned()))
    }
}

/// How many rows there are and the sum of their checksums; both wrap around, so that a difference is one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) objects: u64,
    pub(super) sum: u64,
}

impl Total {
    pub(super) fn add(&mut self, row: Sum) {
        self.join(Self { objects: 1, sum: row.0 });
    }

    pub(super) fn remove(&mut self, row: Sum) {
        self.join(Self { objects: 1_u64.wrapping_neg(), sum: row.0.wrapping_neg() });
    }

    pub(super) fn join(&mut self, other: Self) {
        self.objects = self.objects.wrapping_add(other.objects);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_row_is_covered() {
        let (name, numbers, value) = (b"/calico/x".to_vec(), [3, 1 << 40], b"{\"a\":1}".to_vec());
        let sum = Sum::of(&name, &numbers, &value);
        assert!(sum.covers_head(&name, &numbers) && sum.covers_value(&value));
        let flip = |bytes: &[u8], bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        for bit in 0..name.len() * 8 {
            assert!(!sum.covers_head(&flip(&name, bit), &numbers), "bit {bit} of the name");
        }
        for bit in 0..64 {
            assert!(!sum.covers_head(&name, &[3 ^ 1 << bit, 1 << 40]), "bit {bit} of the first number");
            let other = Sum(sum.0 ^ 1 << bit);
            assert!(!other.covers_head(&name, &numbers), "bit {bit} of the checksum");
        }
        for bit in 0..value.len() * 8 {
            assert!(!sum.covers_value(&flip(&value, bit)), "bit {bit} of the value");
        }
        // An object is no write of it, whatever the numbers.
        assert!(!sum.covers_head(&name, &[3, 1 << 40, 0]));
    }

    #[test]
    fn a_total_is_that_of_the_rows_that_are_there() {
        let rows = [1, u64::MAX, 7].map(Sum);
        let mut all = Total::default();
        rows.iter().for_each(|row| all.add(*row));
        let mut difference = Total::default();
        difference.remove(rows[1]);
        all.join(difference);
        let mut rest = Total::default();
        rest.add(rows[2]);
        rest.add(rows[0]);
        assert_eq!(all, rest);
    }
}
