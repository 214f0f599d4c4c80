//! Durations and sizes as people write them: a number and its unit.

use std::time::Duration;

/// Reads a duration such as `100 ms`, `1.5s`, `2 min`. The unit is needed. `None` if it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let nanos = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * nanos / 1e9).ok()
}

/// Reads a size in bytes such as `4096`, `512 KiB`, `1.5 MiB`, `2 GB`. `None` if it is none.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1.0,
        "KB" | "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        _ => return None,
    };
    let bytes = number * bytes;
    (bytes.fract() == 0.0 && bytes < 9e15).then_some(bytes as u64)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// A duration as [`parse_duration`] reads it, in the unit that suits it.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        0..1_000_000 => (1_000, "µs"),
        1_000_000..10_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let whole = nanos / unit;
    match nanos % unit * 10 / unit {
        0 => format!("{whole} {name}"),
        tenth => format!("{whole}.{tenth} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_its_unit_and_a_size_does_not() {
        for (text, ms) in [("100 ms", 100), ("1.5s", 1500), ("2 min", 120_000), ("1_000ms", 1000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["100", "ms", "-1 s", "1 fortnight", ""] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for (text, bytes) in [("4096", 4096), ("1.5 MiB", 3 << 19), ("2 GB", 2_000_000_000)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        assert_eq!(parse_size("0.3 B"), None);
        for (ms, text) in [(100, "100 ms"), (1500, "1500 ms"), (120_000, "120 s")] {
            assert_eq!(show(Duration::from_millis(ms)), text);
        }
    }
}
