//! How figures are printed.

use std::time::Duration;
use varve_demo::show;

/// A figure with three digits that count, and with separators when it is large.
pub fn figure(x: f64) -> String {
    if x >= 999.5 {
        return show::count(x.round() as i64);
    }
    let digits = match x {
        _ if x >= 99.95 => 0,
        _ if x >= 9.995 => 1,
        _ if x >= 0.9995 => 2,
        _ if x >= 0.09995 => 3,
        _ => 4,
    };
    format!("{x:.digits$}")
}

/// A time in milliseconds.
pub fn ms(t: Duration) -> String {
    figure(t.as_secs_f64() * 1000.0)
}

/// Megabytes (of 10^6 bytes).
pub fn megabytes(bytes: f64) -> String {
    format!("{} MB", figure(bytes / 1e6))
}

/// Whether a figure that should be small is within its target, and by what factor it is not.
pub fn at_most(figure_is: f64, target: f64) -> String {
    if figure_is <= target {
        "✓".into()
    } else {
        format!("✗ {} × too much", figure(figure_is / target))
    }
}

/// Whether a figure that should be large reaches its target, and what share of it it reaches if not.
pub fn at_least(figure_is: f64, target: f64) -> String {
    if figure_is >= target {
        "✓".into()
    } else {
        format!("✗ {} of it", show::percent(figure_is / target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let cases = [
            (1_974.4, "1,974"),
            (999.6, "1,000"),
            (615.0, "615"),
            (99.99, "100"),
            (12.34, "12.3"),
            (3.2, "3.20"),
            (0.37, "0.370"),
            (0.004, "0.0040"),
            (0.0, "0.0000"),
        ];
        for (x, text) in cases {
            assert_eq!(figure(x), text);
        }
        assert_eq!(ms(Duration::from_micros(1_230)), "1.23");
        assert_eq!(megabytes(100e6), "100 MB");
    }

    #[test]
    fn targets_are_judged() {
        assert_eq!(at_most(0.05, 0.05), "✓");
        assert_eq!(at_most(0.1, 0.05), "✗ 2.00 × too much");
        assert_eq!(at_least(2.0, 1.0), "✓");
        assert_eq!(at_least(0.5, 1.0), "✗ 50.0 % of it");
    }
}
