//! Portable Rust: a table of the sums that four bits can choose, for each four values of the query.

use crate::similarity::Matrix;
use crate::similarity::line::Line;

/// Elements of a query for each byte of a row.
pub(super) const RATIO: usize = 8;

/// Four bits as four bytes of 0 or 2, in memory order.
pub(super) const SPREAD: [u32; 16] = {
    let (mut table, mut bits) = ([0; 16], 0);
    while bits < 16 {
        let bytes = [bits as u8 & 1, bits as u8 >> 1 & 1, bits as u8 >> 2 & 1, bits as u8 >> 3];
        table[bits] = u32::from_ne_bytes(bytes) << 1;
        bits += 1;
    }
    table
};

pub(super) fn rows(query: &[i8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    let mut tables = vec![[0; 16]; query.len() / 4];
    for (table, four) in tables.iter_mut().zip(query.as_chunks::<4>().0) {
        for (bits, sum) in table.iter_mut().enumerate() {
            *sum = signed(four, bits as u8);
        }
    }
    for (row, out) in rows.iter().zip(out) {
        let pairs = row.iter().zip(tables.as_chunks::<2>().0);
        *out = pairs.map(|(&byte, [low, high])| low[usize::from(byte & 15)] + high[usize::from(byte >> 4)]).sum();
    }
}

/// The sum of values, each taken positive where its bit is set and negative where not.
#[inline]
pub(super) fn signed(values: &[i8], bits: u8) -> i32 {
    let terms = values.iter().enumerate();
    terms.map(|(at, &x)| if bits >> at & 1 == 1 { i32::from(x) } else { -i32::from(x) }).sum()
}

/// Write a row's bits to its lane.
pub(super) fn spread(row: &[u8], lane: usize, lines: &mut [Line]) {
    for (&byte, [low, high]) in row.iter().zip(lines.as_chunks_mut::<2>().0) {
        low.0[lane] = SPREAD[usize::from(byte & 15)];
        high.0[lane] = SPREAD[usize::from(byte >> 4)];
    }
}
