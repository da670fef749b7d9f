//! What an SQLSTATE means for a sign-up that must not be blocked.

/// Whether an error says something about the server or the session and not about the row at hand: query cancel and
/// shutdown, lack of resources, serialization failures. Such errors are passed on, never swallowed.
///
/// Classes after PostgreSQL's appendix "Error Codes". A deadlock (40P01) is a failure of the application's side like
/// any other: the server has ended it by refusing our statement, and the sign-up can go on.
pub fn must_pass_on(sqlstate: &str) -> bool {
    sqlstate.starts_with("53")
        || sqlstate.starts_with("57P")
        || matches!(sqlstate, "57014" | "40001")
}

/// Whether an error is about the values of one row, so that other rows, or the row with other values, may well pass.
pub fn is_about_values(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || sqlstate.starts_with("23") || sqlstate == "54000"
}

/// Two that waited for each other: the other one goes on, and does not stand in the way for long.
pub const DEADLOCK: &str = "40P01";

/// A lock that was not to be had within lock_timeout.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Whether another value in the row would not help: a table or column that is missing or may not be touched, a lock that
/// was not to be had. Among many rows it may still be one row's alone: a trigger can raise anything.
pub fn not_about_the_row(sqlstate: &str) -> bool {
    matches!(sqlstate, LOCK_NOT_AVAILABLE | DEADLOCK | "25006") || sqlstate.starts_with("42")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_shutdown_resources_and_serialization_pass_on() {
        for state in ["57014", "57P01", "57P05", "53100", "53200", "40001"] {
            assert!(must_pass_on(state), "{state}");
        }
        for state in ["23505", "P0001", "55P03", "40P01", "42P01", "XX000", "25P02", "40003"] {
            assert!(!must_pass_on(state), "{state}");
        }
    }

    #[test]
    fn a_deadlock_is_not_about_the_row_and_a_check_is() {
        assert!(not_about_the_row("40P01"));
        assert!(not_about_the_row("42703"));
        assert!(!not_about_the_row("23514"));
        assert!(is_about_values("22001") && is_about_values("23514"));
        assert!(!is_about_values("P0001"));
    }
}
