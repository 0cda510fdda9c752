//! Formats numbers for people. Counts are complete, with commas. Times and throughputs have a unit and about three
//! digits.

/// A count, such as `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, such as `1 packet` or `1,024 packets`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", self::count(count as u64))
}

/// A rate per second without its unit, such as `1,234,567`, `9.50` or `0.001`. Rates from 10 on are whole numbers.
pub(crate) fn rate(rate: f64) -> String {
    match rate {
        ..=0.0 => "0".to_owned(),
        ..0.1 => {
            let first_digit = -rate.log10().floor() as usize;
            let text = format!("{rate:.*}", first_digit + 2);
            text.trim_end_matches('0').to_owned()
        }
        ..9.995 => three_digits(rate),
        _ => count(rate.round() as u64),
    }
}

/// A percentage, such as `0.0123 %`, `4.56 %` or `78.9 %`.
pub(crate) fn percent(percent: f64) -> String {
    format!("{} %", if percent < 9.995 { rate(percent) } else { three_digits(percent) })
}

/// A time, such as `870 ns`, `12.3 µs`, `4.56 ms` or `1.23 s`. More digits would be false: the histograms keep three.
pub(crate) fn time(ns: f64) -> String {
    // Limits just below 1000, because rounding could reach the next unit.
    match ns {
        ..999.5 => format!("{ns:.0} ns"),
        ..999.5e3 => format!("{} µs", three_digits(ns / 1e3)),
        ..999.5e6 => format!("{} ms", three_digits(ns / 1e6)),
        _ => format!("{} s", three_digits(ns / 1e9)),
    }
}

/// A throughput, such as `870 B/s`, `1.50 KiB/s` or `117 MiB/s`.
pub(crate) fn bytes_per_s(rate: f64) -> String {
    const KIB: f64 = 1024.0;
    // Limits just below 1024, because rounding could reach the next unit.
    if rate < KIB - 0.5 {
        format!("{rate:.0} B/s")
    } else if rate < (KIB - 0.5) * KIB {
        format!("{} KiB/s", three_digits(rate / KIB))
    } else {
        format!("{} MiB/s", three_digits(rate / KIB / KIB))
    }
}

/// Two decimals below 10, one below 100, none above.
fn three_digits(number: f64) -> String {
    match number {
        // Limits just below 10 and 100, because rounding could add a digit before the point.
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_by_commas() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn a_small_rate_has_a_fraction() {
        for (number, text) in [
            (0.0, "0"),
            (0.001, "0.001"),
            (1.0 / 30.0, "0.0333"),
            (0.25, "0.25"),
            (9.5, "9.50"),
            (9.996, "10"),
            (10.4, "10"),
            (50_000.0, "50,000"),
        ] {
            assert_eq!(rate(number), text);
        }
    }

    #[test]
    fn percentages_have_three_digits() {
        for (number, text) in
            [(0.0, "0 %"), (0.0123, "0.0123 %"), (4.0, "4.00 %"), (78.91, "78.9 %"), (100.0, "100 %")]
        {
            assert_eq!(percent(number), text);
        }
    }

    #[test]
    fn times_have_three_digits_and_a_fitting_unit() {
        let cases = [
            (870.0, "870 ns"),
            (999.7, "1.00 µs"),
            (999_600.0, "1.00 ms"),
            (999_700_000.0, "1.00 s"),
            (1234.0, "1.23 µs"),
            (45_600.0, "45.6 µs"),
            (789_000.0, "789 µs"),
            (4_560_000.0, "4.56 ms"),
            (1.5e9, "1.50 s"),
            (61e9, "61.0 s"),
            (9_996_000.0, "10.0 ms"),
            (99_960_000.0, "100 ms"),
        ];
        for (ns, text) in cases {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn byte_rates_use_binary_units() {
        let cases = [
            (870.0, "870 B/s"),
            (1023.7, "1.00 KiB/s"),
            (1_048_300.0, "1.00 MiB/s"),
            (1536.0, "1.50 KiB/s"),
            (122_683_392.0, "117 MiB/s"),
        ];
        for (rate, text) in cases {
            assert_eq!(bytes_per_s(rate), text);
        }
    }
}
