//! What a fix does about each status.

/// A status of contract section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Synced,
    EmailMismatch,
    Mismatched,
    Duplicate,
    MissingInAppUsers,
    MissingInAuth,
    Pending,
    Conflict,
}

impl Status {
    /// All of them, in the order in which people are shown them.
    pub const ALL: [Status; 8] = [
        Status::Synced,
        Status::EmailMismatch,
        Status::Mismatched,
        Status::Duplicate,
        Status::MissingInAppUsers,
        Status::MissingInAuth,
        Status::Pending,
        Status::Conflict,
    ];

    /// The names of all of them, in the same order.
    pub const NAMES: [&str; 8] = {
        let mut names = [""; 8];
        let mut place = 0;
        while place < names.len() {
            names[place] = Self::ALL[place].name();
            place += 1;
        }
        names
    };

    pub const fn name(self) -> &'static str {
        match self {
            Status::Synced => "SYNCED",
            Status::EmailMismatch => "EMAIL_MISMATCH",
            Status::Mismatched => "MISMATCHED",
            Status::Duplicate => "DUPLICATE",
            Status::MissingInAppUsers => "MISSING_IN_APP_USERS",
            Status::MissingInAuth => "MISSING_IN_AUTH",
            Status::Pending => "PENDING",
            Status::Conflict => "CONFLICT",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// What `fix_user_ids` does about it.
    pub fn action(self) -> Action {
        match self {
            Status::Synced | Status::MissingInAuth => Action::None,
            Status::EmailMismatch => Action::UpdateEmail,
            Status::Mismatched => Action::Rekey,
            Status::Duplicate => Action::Merge,
            Status::MissingInAppUsers => Action::Create,
            Status::Pending | Status::Conflict => Action::Refuse,
        }
    }

    /// Whether a fix without a list of e-mails takes it up.
    pub fn is_fixable(self) -> bool {
        !matches!(self.action(), Action::None | Action::Refuse)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Rekey,
    Merge,
    Create,
    UpdateEmail,
    Refuse,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::None => "none",
            Action::Rekey => "rekey",
            Action::Merge => "merge",
            Action::Create => "create",
            Action::UpdateEmail => "update_email",
            Action::Refuse => "refuse",
        }
    }
}

/// Puts users whose wanted e-mails are each other's present ones into an order in which each takes an address that is
/// free. `wants[i]` names the user who holds what `i` wants. Answers those who can go one after the other, and the rings
/// in which all must change at once.
pub fn order_of_exchange(wants: &[Option<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut order = Vec::new();
    let mut rings = Vec::new();
    let mut done = vec![false; wants.len()];
    let mut place = vec![None; wants.len()];
    for start in 0..wants.len() {
        let mut path = Vec::new();
        let mut next = Some(start);
        while let Some(user) = next {
            if done[user] {
                break;
            }
            if let Some(entry) = place[user] {
                let ring = path.split_off(entry);
                ring.iter().for_each(|member: &usize| done[*member] = true);
                rings.push(ring);
                break;
            }
            place[user] = Some(path.len());
            path.push(user);
            next = wants[user];
        }
        // Whoever is waited for goes first.
        for user in path.into_iter().rev() {
            done[user] = true;
            order.push(user);
        }
    }
    (order, rings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_name() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.name()), Some(status));
        }
        assert_eq!(Status::parse("synced"), None);
    }

    #[test]
    fn only_what_a_fix_changes_is_fixable() {
        let fixable: Vec<&str> =
            Status::ALL.into_iter().filter(|s| s.is_fixable()).map(Status::name).collect();
        assert_eq!(fixable, ["EMAIL_MISMATCH", "MISMATCHED", "DUPLICATE", "MISSING_IN_APP_USERS"]);
    }

    #[test]
    fn a_chain_goes_last_link_first() {
        assert_eq!(order_of_exchange(&[Some(1), Some(2), None]), (vec![2, 1, 0], vec![]));
        assert_eq!(order_of_exchange(&[None, None]), (vec![0, 1], vec![]));
    }

    #[test]
    fn a_swap_is_a_ring() {
        assert_eq!(order_of_exchange(&[Some(1), Some(0)]), (vec![], vec![vec![0, 1]]));
    }

    #[test]
    fn who_waits_for_a_ring_goes_after_it() {
        let (order, rings) = order_of_exchange(&[Some(1), Some(2), Some(1)]);
        assert_eq!((order, rings), (vec![0], vec![vec![1, 2]]));
    }
}
