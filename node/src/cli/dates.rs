//! Points in time as people read them: RFC 3339, in UTC.

use std::time::Duration;

use macula_config::period;

/// `2026-11-22T21:20:07Z`.
pub(crate) fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A length of time in its two largest units: `23h 59m`, `4d 2h`, `45s`.
pub(crate) fn rough(length: Duration) -> String {
    let s = length.as_secs();
    match s {
        0..60 => period::format(Duration::from_secs(s)),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..172_800 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01. Years begin in
/// March here, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097); // 400 years are 146 097 days
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153; // five months are 153 days
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_known_points_in_time() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(unix_s), text);
        }
    }

    #[test]
    fn lengths_have_their_two_largest_units() {
        for (s, text) in
            [(0, "0s"), (45, "45s"), (61, "1m 1s"), (86_399, "23h 59m"), (354_000, "4d 2h")]
        {
            assert_eq!(rough(Duration::from_secs(s)), text);
        }
    }
}
