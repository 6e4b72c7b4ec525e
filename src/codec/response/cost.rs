//! Which numbers are a cost.

/// Digits of a cost before and after the point. More is no amount of money.
const DIGITS: i32 = 40;
/// Digits of a fraction as spelled, and of an exponent without its leading zeros, that are read.
const FRACTION: usize = 100;
const EXPONENT: usize = 3;
/// Leading zeros of an exponent that are read.
const ZEROS: usize = 20;

/// Whether a JSON number is a plausible cost: not negative, with at most [`DIGITS`] digits before and after the point.
///
/// `ctxembed._costs` has the same rule in Python, and a test compares the two.
pub(super) fn is_plausible(number: &str) -> bool {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let value = digits.trim_start_matches('0');
    let is_long = value.len() > EXPONENT || digits.len() > ZEROS + EXPONENT || fraction.len() > FRACTION;
    if whole.starts_with('-') || is_long {
        return false;
    }
    let size = value.parse().unwrap_or(0);
    let exponent: i32 = if exponent.starts_with('-') { -size } else { size };
    // The exponent of the last digit, and that of the first one that is not 0; for zero, that of its only digit.
    let last = exponent - fraction.len() as i32;
    let leading = whole.bytes().chain(fraction.bytes()).take_while(|&byte| byte == b'0').count();
    let significant = (whole.len() + fraction.len() - leading).max(1) as i32;
    (-DIGITS..=DIGITS).contains(&last) && last + significant <= DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_has_at_most_forty_digits_on_either_side_of_the_point() {
        let nines = "9".repeat(40);
        for number in ["0", "0.0", "1", "8e-8", "1E+3", "0.5e-39", "1e39", "1e-40", "0e39", &nines, "0.000000056"] {
            assert!(is_plausible(number), "{number}");
        }
        assert!(is_plausible(&format!("{nines}.{nines}")));
        assert!(is_plausible(&format!("1e{}7", "0".repeat(20))));
        for number in
            ["-1", "-0", "1e40", "1e-41", "10e39", "0.1e-40", "1e1000", "1e1000000000000000000", "1e-99999999999"]
        {
            assert!(!is_plausible(number), "{number}");
        }
        assert!(!is_plausible(&format!("1{nines}")));
        assert!(!is_plausible(&format!("0.{nines}0")));
    }
}
