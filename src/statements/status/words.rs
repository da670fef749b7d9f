//! Why somebody has a status, in a word for the program and in a sentence for people.

#[derive(Clone, Copy)]
pub enum Why {
    Synced,
    EmailMismatch,
    /// One app row has the e-mail, under an id auth does not know.
    Mismatched,
    /// The same, but the e-mail is not confirmed.
    Pending,
    /// An app row beside the auth user's own, with their e-mail.
    Duplicate,
    /// The same, but the e-mail is not confirmed.
    PendingDuplicate,
    MissingApp,
    MissingAppNoEmail,
    MissingAuth,
    /// The app row's id was an auth user's once.
    Deleted,
    /// An auth user who shares the e-mail with others.
    SeveralAuth,
    /// An app row with such an e-mail.
    AppOfSeveralAuth,
    /// An auth user whose e-mail several app rows have.
    SeveralApp,
    /// One of these.
    OneOfSeveralApp,
    /// The app row with the e-mail is another auth user's.
    AnothersRow,
    /// The app row's id belonged to an auth user who is gone.
    KnownId,
    KnownIdBesideOwn,
    /// The app row has no id at all.
    NoId,
    NoIdBesideOwn,
}

const ALL: [Why; 19] = [
    Why::Synced,
    Why::EmailMismatch,
    Why::Mismatched,
    Why::Pending,
    Why::Duplicate,
    Why::PendingDuplicate,
    Why::MissingApp,
    Why::MissingAppNoEmail,
    Why::MissingAuth,
    Why::Deleted,
    Why::SeveralAuth,
    Why::AppOfSeveralAuth,
    Why::SeveralApp,
    Why::OneOfSeveralApp,
    Why::AnothersRow,
    Why::KnownId,
    Why::KnownIdBesideOwn,
    Why::NoId,
    Why::NoIdBesideOwn,
];

/// The one conflict about which a person need not decide: the row's own user gets their e-mail first.
pub const ANOTHERS_ROW: &str = "the app row with this e-mail has the id of another auth user; it is theirs, with an outdated e-mail";

/// Nobody need decide here either: with an id the row is one like others.
pub const ROW_WITHOUT_ID: &str = "the app row with this e-mail has no id";

/// How it is told of an auth user who shares the e-mail with others, by which no row can be given to one of them.
pub const NO_ROW_OF_SEVERAL: &str = " auth users have this e-mail, this one has no app row";

impl Why {
    pub fn word(self) -> &'static str {
        match self {
            Why::Synced => "synced",
            Why::EmailMismatch => "email_mismatch",
            Why::Mismatched => "mismatched",
            Why::Pending => "pending",
            Why::Duplicate => "duplicate",
            Why::PendingDuplicate => "pending_duplicate",
            Why::MissingApp => "missing_app",
            Why::MissingAppNoEmail => "missing_app_no_email",
            Why::MissingAuth => "missing_auth",
            Why::Deleted => "deleted",
            Why::SeveralAuth => "several_auth",
            Why::AppOfSeveralAuth => "app_of_several_auth",
            Why::SeveralApp => "several_app",
            Why::OneOfSeveralApp => "one_of_several_app",
            Why::AnothersRow => "anothers_row",
            Why::KnownId => "known_id",
            Why::KnownIdBesideOwn => "known_id_beside_own",
            Why::NoId => "no_id",
            Why::NoIdBesideOwn => "no_id_beside_own",
        }
    }

    fn status(self) -> &'static str {
        match self {
            Why::Synced => "SYNCED",
            Why::EmailMismatch => "EMAIL_MISMATCH",
            Why::Mismatched => "MISMATCHED",
            Why::Pending | Why::PendingDuplicate => "PENDING",
            Why::Duplicate => "DUPLICATE",
            Why::MissingApp | Why::MissingAppNoEmail => "MISSING_IN_APP_USERS",
            Why::MissingAuth | Why::Deleted => "MISSING_IN_AUTH",
            Why::SeveralAuth
            | Why::AppOfSeveralAuth
            | Why::SeveralApp
            | Why::OneOfSeveralApp
            | Why::AnothersRow
            | Why::KnownId
            | Why::KnownIdBesideOwn
            | Why::NoId
            | Why::NoIdBesideOwn => "CONFLICT",
        }
    }

    /// SQL for the sentence, over a row `r`; NULL where there is nothing to say.
    fn sentence(self, r: &str, never: bool) -> String {
        let plain = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let once_confirmed = if never {
            "once it is, a fix may link them (onagui_sync.link_by_email is never)"
        } else {
            "once it is, the app row gets the auth id"
        };
        match self {
            Why::Synced => "NULL::text".into(),
            Why::EmailMismatch => format!(
                "CASE WHEN nullif(btrim({r}.auth_email), '') IS NULL
                      THEN 'auth has no e-mail, the app row has one; it is kept'
                      WHEN nullif(btrim({r}.app_email), '') IS NULL THEN 'the app row has no e-mail, auth has one'
                      ELSE 'the app row has another e-mail: ' || {r}.app_email END"
            ),
            Why::Mismatched => {
                plain("the app row with this e-mail has another id, one that auth has never known")
            }
            Why::Pending => plain(&format!("the e-mail is not confirmed yet; {once_confirmed}")),
            Why::Duplicate => plain(
                "a second app row with this e-mail, its id unknown to auth, beside the auth user's own row",
            ),
            Why::PendingDuplicate => plain(
                "a second app row with this e-mail beside the auth user's own row; the e-mail is not confirmed yet, \
                 once it is, this is a DUPLICATE",
            ),
            Why::MissingApp => plain("no app row has this id or this e-mail"),
            Why::MissingAppNoEmail => plain("no app row has this id; the auth user has no e-mail"),
            Why::MissingAuth => plain("auth has neither this id nor this e-mail"),
            Why::Deleted => plain("the auth user with this id was deleted"),
            Why::SeveralAuth => {
                format!("{r}.auth_n || '{NO_ROW_OF_SEVERAL}'")
            }
            Why::AppOfSeveralAuth => format!(
                "{r}.auth_n || ' auth users have the e-mail of this app row, and auth does not have its id'"
            ),
            Why::SeveralApp => format!(
                "{r}.app_n || ' app rows have this e-mail, and the auth user has none of their own'"
            ),
            Why::OneOfSeveralApp => format!(
                "'one of ' || {r}.app_n || ' app rows with this e-mail; the auth user has none of their own'"
            ),
            Why::AnothersRow => plain(ANOTHERS_ROW),
            Why::KnownId => {
                plain("the app row with this e-mail has the id of an auth user who was deleted")
            }
            Why::KnownIdBesideOwn => plain(
                "a second app row with the e-mail of an auth user who has a row of their own; its id is that of an \
                 auth user who was deleted",
            ),
            Why::NoId | Why::NoIdBesideOwn => plain(ROW_WITHOUT_ID),
        }
    }
}

/// SQL: the status for a `why`.
pub fn status(why: &str) -> String {
    status_of(why, &ALL)
}

/// The same where only `some` occur.
pub fn status_of(why: &str, some: &[Why]) -> String {
    choose(why, some, |each| format!("'{}'::text", each.status()))
}

/// SQL: the sentence for row `r`.
pub fn detail(r: &str, never: bool) -> String {
    choose(&format!("{r}.why"), &ALL, |each| each.sentence(r, never))
}

/// The same where only `some` occur, and the settings do not matter.
pub fn detail_of(r: &str, some: &[Why]) -> String {
    choose(&format!("{r}.why"), some, |each| each.sentence(r, false))
}

/// SQL: whether `why` is one of `some`.
pub fn any_of(why: &str, some: &[Why]) -> String {
    let words: Vec<String> = some.iter().map(|each| format!("'{}'", each.word())).collect();
    format!("{why} IN ({})", words.join(", "))
}

fn choose(why: &str, some: &[Why], branch: impl Fn(Why) -> String) -> String {
    let branches: Vec<String> =
        some.iter().map(|each| format!("WHEN '{}' THEN {}", each.word(), branch(*each))).collect();
    format!("CASE {why} {} END", branches.join(" "))
}

/// The rows that show no app row.
pub const WITHOUT_APP_ROW: [Why; 5] =
    [Why::MissingApp, Why::MissingAppNoEmail, Why::SeveralAuth, Why::SeveralApp, Why::AnothersRow];

/// The rows that name an auth user who has a row of their own already.
pub const NAMES_ANOTHERS_AUTH_USER: [Why; 2] = [Why::Duplicate, Why::PendingDuplicate];
