//! Cosines from exact integers: the float32 nearest to the true value, and an order that no rounding can change.
//!
//! With `d` the inner product and `m`, `n` the squared norms, the cosine is `d / sqrt(m * n)`, all three integers
//! below 2^31. A zero vector has cosine 0 with everything.

use std::cmp::Ordering;

/// `1 / sqrt(n)`, or 0 for a zero vector.
#[inline]
pub fn inverse_norm(squared: u32) -> f64 {
    if squared == 0 { 0.0 } else { 1.0 / f64::from(squared).sqrt() }
}

/// The float32 nearest to `d / sqrt(m * n)`, ties to even, given the squared norms and their [`inverse_norm`]s.
///
/// The product in double precision is usually enough; the integers decide only where its error leaves the rounding open.
#[inline]
pub fn cosine(d: i32, (m, inverse_m): (u32, f64), (n, inverse_n): (u32, f64)) -> f32 {
    let near = f64::from(d) * (inverse_m * inverse_n);
    if is_open(near) { settle(d, m, n, near) } else { near as f32 }
}

/// Whether `near` lies so close to the middle of two floats that its error could decide between them.
///
/// Six roundings go into it (two square roots, two divisions, two products), each of a relative 2^-53 at most, and so
/// an error below 7 units in the last place.
#[inline]
fn is_open(near: f64) -> bool {
    /// Bits of a double's significand that float32 lacks, and the pattern halfway between two floats.
    const EXTRA: u64 = (1 << 29) - 1;
    const HALFWAY: u64 = 1 << 28;
    const MARGIN: u64 = 8;
    (near.to_bits() & EXTRA).wrapping_sub(HALFWAY - MARGIN) <= 2 * MARGIN
}

/// The nearest float32 where `near` lies too close to the middle of two of them.
#[cold]
fn settle(d: i32, m: u32, n: u32, near: f64) -> f32 {
    // The middle itself is a double of 25 significant bits: `halfway * 2^-shift` with `halfway` below 2^25.
    let bits = near.abs().to_bits();
    let middle = bits & !((1 << 29) - 1) | 1 << 28;
    let halfway = u128::from((middle & ((1 << 52) - 1) | 1 << 52) >> 28);
    let shift = 1075 - (bits >> 52) as i64 - 28;
    // d / sqrt(mn) against halfway / 2^shift, squared: d^2 * 4^shift against halfway^2 * mn. Cosines are at most 1 (and
    // a little, by rounding), and at least 1 / 2^31 where not 0, so that 24 <= shift <= 56: the right side is below
    // 2^(50 + 62). The left side is shifted last, as it nears the right one: it stays below 2^114.
    let right = halfway * halfway * (u128::from(m) * u128::from(n));
    let left = u128::from(d.unsigned_abs()) * u128::from(d.unsigned_abs());
    let order = match u32::try_from(2 * shift) {
        Ok(shift) if shift <= left.leading_zeros() => (left << shift).cmp(&right),
        // Only integers that are not the norms of these vectors (a damaged, unverified file) come here.
        _ => return near as f32,
    };
    let middle = f64::from_bits(middle);
    // The neighbours of the middle, in double precision, round away from it.
    let nearest = match order {
        Ordering::Less => middle.next_down(),
        Ordering::Equal => middle,
        Ordering::Greater => middle.next_up(),
    };
    (nearest as f32).copysign(near as f32)
}

/// Compare `d / sqrt(n)` with `e / sqrt(m)` exactly: the order of the cosines with one and the same query.
#[inline]
pub fn compare((d, n): (i32, u32), (e, m): (i32, u32)) -> Ordering {
    // A zero vector's product is zero, so that the other side's sign decides.
    let (d, e) = (if n == 0 { 0 } else { i64::from(d) }, if m == 0 { 0 } else { i64::from(e) });
    d.signum().cmp(&e.signum()).then_with(|| {
        // d^2 / n against e^2 / m; squares are below 2^63, norms below 2^32.
        let left = u128::from((d * d).unsigned_abs()) * u128::from(m.max(1));
        let right = u128::from((e * e).unsigned_abs()) * u128::from(n.max(1));
        if d < 0 { right.cmp(&left) } else { left.cmp(&right) }
    })
}

/// [`inverse_norm`] in single precision, for [`filter_value`]. Three roundings of 2^-24 each, of which the first counts
/// half: a relative error below 3 * 2^-24.
#[inline]
pub fn inverse_norm_f32(squared: u32) -> f32 {
    if squared == 0 { 0.0 } else { 1.0 / (squared as f32).sqrt() }
}

/// A lower bound of the [`filter_value`] of every row that is at least as good as `(d, n)`.
///
/// A row's filter value is `fl(fl(e) * fl(1 / sqrt(m)))` in float32: two roundings of 2^-24 beside those of
/// [`inverse_norm_f32`], so its relative error is below 6 * 2^-24. The margin here is 2^-20, sixteen of them, which
/// leaves room for this value's own rounding and that of a score. Relative errors never change a sign, so that a limit
/// of zero needs no margin.
#[inline]
pub fn filter_limit(d: i32, n: u32) -> f32 {
    filter_limit_of(f64::from(d) * inverse_norm(n))
}

/// As [`filter_limit`], for rows whose product over their norm is at least `value`, or rounds to it in float32.
#[inline]
pub fn filter_limit_of(value: f64) -> f32 {
    (value - value.abs() / f64::from(1 << 20)) as f32
}

/// The value that [`filter_limit`] is compared with.
#[inline]
pub fn filter_value(d: i32, inverse_norm: f32) -> f32 {
    d as f32 * inverse_norm
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "values are compared to the last bit")]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn of(d: i32, m: u32, n: u32) -> f32 {
        cosine(d, (m, inverse_norm(m)), (n, inverse_norm(n)))
    }

    /// Whether `|x|` is the nearest float32 to `d / sqrt(mn)`, in integers alone: `|x| +- half an ulp` squared, times
    /// `mn`, must enclose `d^2`.
    fn is_nearest(x: f32, d: i32, m: u32, n: u32) -> bool {
        if d == 0 || m == 0 || n == 0 {
            return x == 0.0;
        }
        let bits = x.abs().to_bits();
        let (significand, exponent) = (u128::from(bits & 0x7f_ffff | 0x80_0000), i64::from(bits >> 23) - 150);
        // x = significand * 2^exponent; a quarter unit serves the step below a power of two.
        let below = 4 * significand - if bits.trailing_zeros() >= 23 { 1 } else { 2 };
        let above = 4 * significand + 2;
        let product = u128::from(m) * u128::from(n);
        let square = u128::from(d.unsigned_abs()).pow(2) << u32::try_from(-2 * (exponent - 2)).expect("below 1");
        let sign = (d < 0) == (x < 0.0);
        sign && below * below * product <= square && square <= above * above * product
    }

    #[test]
    fn cosines_are_the_nearest_float32() {
        let mut random = Random(5);
        for _ in 0..200_000 {
            let (m, n) = (1 + random.next() as u32 % (1 << 24), 1 + random.next() as u32 % (1 << 24));
            let largest = (f64::from(m) * f64::from(n)).sqrt() as i64;
            let d = (random.next() as i64 % (largest + 1)) as i32;
            assert!(is_nearest(of(d, m, n), d, m, n), "{d} / sqrt({m} * {n})");
        }
    }

    #[test]
    fn cosines_next_to_the_middle_of_two_floats_are_settled_by_the_integers() {
        // For random norms and a middle, the nearest product is off by up to half; about one in 2^19 is so close that
        // double precision cannot tell.
        let (mut random, mut settled) = (Random(7), 0);
        for _ in 0..4_000_000 {
            let (m, n) = ((1 << 30) | random.next() as u32 >> 2, (1 << 30) | random.next() as u32 >> 2);
            let middle = f64::from((1 << 24) | (random.next() as u32 & 0xff_ffff) | 1) / f64::from(1 << 25);
            let exact = middle * (f64::from(m) * f64::from(n)).sqrt();
            if (exact - exact.round()).abs() < 1.0 / f64::from(1 << 20) {
                let d = exact.round() as i32;
                settled += u32::from(is_open(f64::from(d) * (inverse_norm(m) * inverse_norm(n))));
                for d in [d, -d] {
                    let x = of(d, m, n);
                    assert!(is_nearest(x, d, m, n), "{d} / sqrt({m} * {n}) = {x}");
                }
            }
        }
        assert!(settled > 3, "{settled} settled: the search no longer finds such values");
        // An exact middle goes to the even neighbour: d = 2^24 + 1 over 2^25.
        let d = (1 << 24) + 1;
        assert_eq!(settle(d, 1 << 25, 1 << 25, f64::from(d) / f64::from(1 << 25)).to_bits(), 0.5f32.to_bits());
        // One less in a norm lifts it above the middle, one more keeps it below.
        let up = f32::from_bits(0.5f32.to_bits() + 1);
        assert_eq!(settle(d, (1 << 25) - 1, 1 << 25, f64::from(d) / f64::from(1 << 25)), up);
        assert_eq!(settle(-d, (1 << 25) - 1, 1 << 25, -f64::from(d) / f64::from(1 << 25)), -up);
        assert_eq!(settle(d, (1 << 25) + 1, 1 << 25, f64::from(d) / f64::from(1 << 25)), 0.5);
    }

    #[test]
    fn cosines_of_zero_and_of_equal_vectors_are_exact() {
        assert_eq!(of(0, 0, 9).to_bits(), 0);
        assert_eq!(of(0, 5, 9).to_bits(), 0);
        for n in [1, 2, 3, 127 * 127, 1 << 14, 16_777_217, 2_147_467_264] {
            assert_eq!(of(n as i32, n, n), 1.0, "{n}");
            assert_eq!(of(-(n as i32), n, n), -1.0, "{n}");
        }
    }

    #[test]
    fn comparisons_follow_the_exact_values() {
        let values = [(0, 0), (0, 7), (1, 1), (-1, 1), (2, 4), (3, 9), (-2, 4), (5, 3), (-5, 3), (5, 4), (2, 5)];
        for a in values {
            for b in values {
                let float = |(d, n): (i32, u32)| f64::from(d) * inverse_norm(n);
                let expected = float(a).partial_cmp(&float(b)).expect("finite");
                assert_eq!(compare(a, b), expected, "{a:?} {b:?}");
            }
        }
        // Where double precision sees a tie: 2^30 / sqrt(2^30 + 1) against (2^30 - 1) / sqrt(2^30 - 1).
        let (a, b) = ((1 << 30, (1 << 30) + 1), ((1 << 30) - 1, (1 << 30) - 1));
        assert_eq!(compare(a, b), Ordering::Greater);
        assert_eq!(compare(b, a), Ordering::Less);
    }

    #[test]
    fn no_row_as_good_as_the_limit_falls_below_it() {
        let mut random = Random(6);
        for _ in 0..200_000 {
            let mut row = || {
                let n = 1 + random.next() as u32 % (1 << 31);
                let largest = (f64::from(n) * f64::from(1u32 << 10)).sqrt() as i64;
                ((random.next() as i64 % (largest + 1)) as i32, n)
            };
            let (a, b) = (row(), row());
            // A close pair too: the same direction, a little longer.
            for (a, b) in [(a, b), (a, (a.0, a.1 ^ 1)), (a, (a.0 ^ 1, a.1))] {
                let (worse, better) = if compare(a, b) == Ordering::Less { (a, b) } else { (b, a) };
                let value = filter_value(better.0, inverse_norm_f32(better.1));
                assert!(value >= filter_limit(worse.0, worse.1), "{worse:?} {better:?}");
            }
        }
    }
}
