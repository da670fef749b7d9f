//! User names: what to take where the wanted one is taken.

/// How many characters a name without a declared length may have. Longer ones would not fit an index entry.
pub const LONGEST_NAME: usize = 255;

/// The names to try for a user, best first: the wanted one, then with the first 8, then with all 32 hex digits of the
/// user's id (ids that are ordered by time share their first digits). Each is cut to `longest` characters so that the
/// digits stay whole.
pub fn candidates(wanted: &str, id: &[u8; 16], longest: usize) -> [String; 3] {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        fit(wanted, "", longest),
        with_digits(wanted, &hex[..8], longest),
        with_digits(wanted, &hex, longest),
    ]
}

fn with_digits(wanted: &str, digits: &str, longest: usize) -> String {
    fit(wanted, &format!("_{digits}"), longest)
}

fn fit(wanted: &str, ending: &str, longest: usize) -> String {
    let ending: String = ending.chars().take(longest).collect();
    let room = longest - ending.chars().count();
    wanted.chars().take(room).chain(ending.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [0x0a, 0x1b, 0x2c, 0x3d, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn the_digits_of_the_id_follow_an_underscore() {
        assert_eq!(
            candidates("ann", &ID, 255),
            ["ann", "ann_0a1b2c3d", "ann_0a1b2c3d0405060708090a0b0c0d0e0f"]
        );
    }

    #[test]
    fn a_short_column_cuts_the_name_and_keeps_the_digits() {
        assert_eq!(candidates("annabelle", &ID, 12), ["annabelle", "ann_0a1b2c3d", "_0a1b2c3d040"]);
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert_eq!(candidates("äöüß", &ID, 3)[0], "äöü");
    }
}
