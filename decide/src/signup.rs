//! What a sign-up, a confirmation or a changed e-mail means for the application's users.

/// The setting `onagui_sync.link_by_email`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPolicy {
    /// Only a confirmed e-mail links.
    Verified,
    /// Every e-mail counts as confirmed.
    Always,
    /// An e-mail never links.
    Never,
}

/// An application user with the auth user's e-mail but another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namesake<Id> {
    pub id: Id,
    /// The id is, or once was, an auth user's.
    pub known: bool,
}

/// What is known of an auth user at the moment of a change.
#[derive(Clone, Debug)]
pub struct Facts<Id> {
    /// Soft-deleted: counts as absent.
    pub deleted: bool,
    pub has_email: bool,
    pub confirmed: bool,
    /// The application's row with the same id, if there is one.
    pub own: Option<OwnRow>,
    /// Other rows with the same e-mail.
    pub namesakes: Vec<Namesake<Id>>,
    /// There is another row with the same e-mail that has no id, where that is merely UNIQUE.
    pub nameless: bool,
    /// Other auth users have confirmed the e-mail too.
    pub shared: bool,
}

impl<Id: Copy> Facts<Id> {
    /// The one row that is to be linked, now or as soon as the e-mail is confirmed, if nobody else has confirmed it.
    pub fn to_link(&self) -> Option<Id> {
        match self.namesakes.as_slice() {
            [Namesake { id, known: false }]
                if self.own.is_none() && !self.nameless && !self.deleted =>
            {
                Some(*id)
            }
            _ => None,
        }
    }
}

/// The application's row with the auth user's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRow {
    /// Its e-mail is auth's to the letter.
    pub email_is_equal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<Id> {
    Nothing,
    /// Make the row.
    Create,
    /// The row with the same id takes auth's e-mail over where that differs; its empty columns are filled.
    Refresh {
        take_email: bool,
    },
    /// Re-key this row to the auth user's id.
    Link(Id),
    /// As soon as the e-mail is confirmed, this row will be re-keyed.
    Pending(Id),
    /// A person must decide.
    Conflict(Conflict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The row with the e-mail has an id that auth knows or knew.
    KnownId,
    /// Several rows have the e-mail.
    SeveralRows,
    /// The row with the e-mail has no id.
    NoId,
    /// Another auth user has confirmed the e-mail.
    SeveralUsers,
    /// `link_by_email = never`.
    LinkingIsOff,
    /// The user has a row of their own, but another row holds the new e-mail.
    EmailIsTaken,
    /// Auth has no e-mail any more, the row still has one.
    EmailIsGone,
}

/// Why a link is pending, for the audit log.
pub const PENDING: &str = "the e-mail is not confirmed yet; its confirmation links the app user";

/// Why a link is pending where another e-mail is confirmed, for the audit log.
pub const UNPROVEN: &str =
    "the e-mail was set without being confirmed; its confirmation, or a fix, links the app user";

impl Conflict {
    /// The reason in words, for the audit log and warnings.
    pub fn reason(self) -> &'static str {
        match self {
            Conflict::KnownId => {
                "an app user with this e-mail has an id that belongs, or once belonged, to another auth user"
            }
            Conflict::SeveralRows => "several app users have this e-mail",
            Conflict::NoId => "the app user with this e-mail has no id",
            Conflict::SeveralUsers => "another auth user has confirmed this e-mail",
            Conflict::LinkingIsOff => {
                "an app user has this e-mail, and onagui_sync.link_by_email is never"
            }
            Conflict::EmailIsTaken => "another app user holds the new e-mail",
            Conflict::EmailIsGone => "auth has no e-mail any more, the app user keeps the old one",
        }
    }
}

/// The table of contract section 3, row by row.
pub fn decide<Id: Copy>(facts: &Facts<Id>, policy: LinkPolicy) -> Decision<Id> {
    if facts.deleted {
        return Decision::Nothing;
    }
    if let Some(own) = facts.own {
        return match (own.email_is_equal, facts.has_email) {
            (true, _) => Decision::Refresh { take_email: false },
            (false, false) => Decision::Conflict(Conflict::EmailIsGone),
            (false, true) if facts.namesakes.is_empty() && !facts.nameless => {
                Decision::Refresh { take_email: true }
            }
            (false, true) => Decision::Conflict(Conflict::EmailIsTaken),
        };
    }
    match facts.namesakes.as_slice() {
        [] if !facts.nameless => Decision::Create,
        _ if policy == LinkPolicy::Never => Decision::Conflict(Conflict::LinkingIsOff),
        [] => Decision::Conflict(Conflict::NoId),
        [_, _, ..] => Decision::Conflict(Conflict::SeveralRows),
        [_] if facts.nameless => Decision::Conflict(Conflict::SeveralRows),
        [namesake] if namesake.known => Decision::Conflict(Conflict::KnownId),
        [_] if facts.shared => Decision::Conflict(Conflict::SeveralUsers),
        [namesake] if facts.confirmed || policy == LinkPolicy::Always => {
            Decision::Link(namesake.id)
        }
        [namesake] => Decision::Pending(namesake.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinkPolicy::*;

    fn facts(namesakes: &[(u8, bool)]) -> Facts<u8> {
        Facts {
            deleted: false,
            has_email: true,
            confirmed: false,
            own: None,
            namesakes: namesakes.iter().map(|&(id, known)| Namesake { id, known }).collect(),
            nameless: false,
            shared: false,
        }
    }

    #[test]
    fn nobody_there_is_a_new_row() {
        assert_eq!(decide(&facts(&[]), Verified), Decision::Create);
        assert_eq!(decide(&facts(&[]), Never), Decision::Create);
    }

    #[test]
    fn an_unconfirmed_email_never_links() {
        assert_eq!(decide(&facts(&[(1, false)]), Verified), Decision::Pending(1));
        assert_eq!(decide(&facts(&[(1, false)]), Always), Decision::Link(1));
    }

    #[test]
    fn an_email_that_several_have_is_for_a_person_to_decide() {
        for (confirmed, policy) in [(true, Verified), (false, Verified), (false, Always)] {
            let shared = Facts { confirmed, shared: true, ..facts(&[(1, false)]) };
            assert_eq!(decide(&shared, policy), Decision::Conflict(Conflict::SeveralUsers));
        }
        assert_eq!(facts(&[(1, false)]).to_link(), Some(1));
        for other in [facts(&[]), facts(&[(1, true)]), facts(&[(1, false), (2, false)])] {
            assert_eq!(other.to_link(), None);
        }
    }

    #[test]
    fn a_confirmed_email_links_one_unknown_row() {
        let confirmed = |n: &[(u8, bool)]| Facts { confirmed: true, ..facts(n) };
        assert_eq!(decide(&confirmed(&[(1, false)]), Verified), Decision::Link(1));
        assert_eq!(
            decide(&confirmed(&[(1, true)]), Verified),
            Decision::Conflict(Conflict::KnownId)
        );
        assert_eq!(decide(&confirmed(&[(1, true)]), Always), Decision::Conflict(Conflict::KnownId));
        assert_eq!(
            decide(&confirmed(&[(1, false), (2, false)]), Verified),
            Decision::Conflict(Conflict::SeveralRows)
        );
        assert_eq!(
            decide(&confirmed(&[(1, false)]), Never),
            Decision::Conflict(Conflict::LinkingIsOff)
        );
    }

    #[test]
    fn a_row_without_an_id_is_for_a_person_to_decide() {
        let beside = |n: &[(u8, bool)]| Facts { confirmed: true, nameless: true, ..facts(n) };
        assert_eq!(decide(&beside(&[]), Verified), Decision::Conflict(Conflict::NoId));
        assert_eq!(decide(&beside(&[]), Never), Decision::Conflict(Conflict::LinkingIsOff));
        assert_eq!(
            decide(&beside(&[(1, false)]), Verified),
            Decision::Conflict(Conflict::SeveralRows)
        );
        let own = Facts { own: Some(OwnRow { email_is_equal: false }), ..beside(&[]) };
        assert_eq!(decide(&own, Verified), Decision::Conflict(Conflict::EmailIsTaken));
    }

    #[test]
    fn the_same_id_comes_first() {
        let own = |email_is_equal, n: &[(u8, bool)]| Facts {
            own: Some(OwnRow { email_is_equal }),
            ..facts(n)
        };
        assert_eq!(decide(&own(false, &[]), Verified), Decision::Refresh { take_email: true });
        assert_eq!(
            decide(&own(true, &[(1, false)]), Verified),
            Decision::Refresh { take_email: false }
        );
        assert_eq!(
            decide(&own(false, &[(1, false)]), Verified),
            Decision::Conflict(Conflict::EmailIsTaken)
        );
    }

    #[test]
    fn an_email_is_never_wiped() {
        let gone =
            Facts { has_email: false, own: Some(OwnRow { email_is_equal: false }), ..facts(&[]) };
        assert_eq!(decide(&gone, Verified), Decision::Conflict(Conflict::EmailIsGone));
    }

    #[test]
    fn a_deleted_user_counts_as_absent() {
        assert_eq!(decide(&Facts { deleted: true, ..facts(&[]) }, Verified), Decision::Nothing);
    }
}
