//! Every error a person can cause. What each of them says stands in `words`, and nowhere else.

mod words;

pub use words::{GIVE_IDS, MADE_BY_AUTH, SPARE_EMAIL};

use onagui_decide::registration::{Wrong, printable};
use onagui_decide::repair::Action;

/// An error as the server reports it.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    /// Which code of the application was running, innermost first; None where none was.
    pub context: Option<String>,
    /// This is the end of a rehearsal and not an error.
    pub is_rehearsal: bool,
}

impl Failure {
    /// Adds it to what the audit log or a row of an answer tells: `error`, and `context` where there is one.
    pub fn note_in(&self, details: &mut serde_json::Value) {
        details["error"] = serde_json::json!({
            "sqlstate": self.sqlstate,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
        });
        if let Some(context) = &self.context {
            details["context"] = context.as_str().into();
        }
    }

    /// `details` of what is nothing but this failure.
    pub fn as_details(&self) -> serde_json::Value {
        let mut details = serde_json::json!({});
        self.note_in(&mut details);
        details
    }
}

/// How a conflict comes to an end.
#[derive(Debug)]
pub enum Decision {
    /// A person says who is who.
    WhoIsWho,
    /// The row is another auth user's, who has got another e-mail since.
    AnothersRow,
    /// The row has no id by which it could be named.
    NoId,
}

#[derive(Debug)]
pub enum Error {
    NotATrigger,
    NotAfter,
    NotForEachRow,
    NoTransitionTable,
    WrongTable {
        table: String,
    },
    TableMissing {
        table: &'static str,
    },
    ColumnMissing {
        table: &'static str,
        column: &'static str,
    },
    ColumnUnfit {
        table: &'static str,
        column: &'static str,
        found: String,
        wanted: &'static str,
    },
    NotATable {
        table: &'static str,
        kind: &'static str,
    },
    /// A table was made after the transaction's snapshot was taken.
    NotInSnapshot {
        table: &'static str,
    },
    /// `auth.users` is partitioned, or no table.
    AuthNotOrdinary {
        kind: &'static str,
    },
    /// A partition or child of a table of users lies on another server.
    ForeignTable,
    /// The extension's own schema or table has another name.
    NotWhole,
    /// A trigger or rule of the application kept rows from being written, without an error.
    RowsDiscarded {
        wanted: u64,
        written: u64,
    },
    /// A row of auth.users without an id.
    NoAuthId,
    /// A trigger of the application gave the row another id than the auth user's.
    IdChanged,
    MayNotCreate {
        role: String,
    },
    MayNotAttach {
        role: String,
    },
    TriggerNameTaken {
        name: &'static str,
    },
    /// Sign-ups wait behind whoever waits for all of auth.users.
    AuthUsersBusy,
    UnknownStatus {
        found: String,
    },
    NegativeLimit {
        limit: i64,
    },
    /// A trigger of the application held a row back.
    HeldBack {
        table: String,
    },
    AppUserGone {
        id: String,
    },
    AuthUserGone {
        id: String,
    },
    /// A row that was looked at is not there, or not the same, any more.
    ChangedMeanwhile {
        table: String,
    },
    /// A statement names a table that is another role's than a moment ago, or a view by now.
    TableReplaced {
        table: String,
    },
    /// Foreign keys or columns were added or changed while somebody waited for a lock, or since the transaction took its
    /// snapshot.
    ReferencesChanged,
    /// Rows refer to a key of a row that goes which the row that stays does not have.
    NoKeyToReferTo {
        /// The table's place among what refers to users.
        place: usize,
        table: String,
        parent: String,
        columns: Vec<String>,
    },
    /// Rows would have to follow two keys that do not agree.
    KeysDisagree {
        table: String,
        columns: Vec<String>,
    },
    /// The staying user's row takes over the key by which rows refer to the leaving one, and the foreign key would act.
    KeyIsTaken {
        table: String,
        constraint: String,
    },
    /// Rows that give way refer to each other, so that no order of doing it is right at every step.
    Entangled {
        tables: String,
    },
    /// A value would be cut or rounded.
    DoesNotFit {
        table: String,
        column: String,
        kind: String,
    },
    /// Rows would refer to nobody.
    Orphans {
        table: String,
        constraint: String,
        rows: usize,
    },
    /// Rows would have to leave their partition, of a partition that a foreign key refers to.
    CannotLeave {
        table: String,
        constraint: String,
        rows: usize,
    },
    /// A table that is published and has no replica identity would have to be written.
    HeldByPublication {
        table: String,
        publication: String,
        write: &'static str,
    },
    /// Rows that had the id before it was moved there have come to refer to the user.
    Adopted {
        table: String,
    },
    /// Rows without a primary key have changed, so that nobody knows which they were.
    CannotTellApart {
        table: String,
    },
    /// Rows that would collide, in words.
    /// Not with rows of the two users who are merged.
    CollidesWithOthers {
        what: String,
    },
    Collides {
        what: String,
        action: Action,
    },
    /// What has to be kept to take a merge back is more than an entry of the audit log can hold.
    TooMuchToKeep {
        megabytes: usize,
    },
    /// Columns that must have a value would have none.
    ValuesMissing {
        table: String,
        columns: Vec<String>,
    },
    /// A row that is to be made would refer to nothing that is there.
    RefersToNobody {
        table: String,
        columns: Vec<String>,
        constraint: String,
    },
    /// What the tables' CHECKs and partitions would not take, in words.
    Violates {
        what: String,
        /// Not in the end, but between two steps.
        on_the_way: bool,
    },
    EmailTaken {
        email: String,
    },
    UnknownEmail {
        email: String,
    },
    OnlyAnAppUser {
        email: String,
    },
    Conflict {
        email: String,
        reason: String,
        decision: Decision,
    },
    Unconfirmed {
        email: String,
    },
    BadArgument {
        name: &'static str,
        value: String,
        wanted: &'static str,
    },
    NullArgument {
        name: &'static str,
    },
    InTransaction,
    NoSuchAudit {
        audit_id: i64,
    },
    UndoneAlready {
        audit_id: i64,
        /// Which entry undid it, which undid that, and so on.
        by: Vec<i64>,
    },
    NothingToUndo {
        audit_id: i64,
        action: String,
        outcome: String,
    },
    CannotUndo {
        audit_id: i64,
        why: Vec<String>,
    },
    NoSuchColumn {
        table: String,
        column: String,
    },
    NotAReference {
        table: String,
        column: String,
        why: String,
    },
    /// A call on behalf of a user, without the user's token.
    NoToken,
    /// A call for somebody else than the user of the token.
    NotOneself,
    BadBody(Wrong),
    NotAnAuthUser,
    NotTheirEmail,
    UsernameTaken {
        username: String,
    },
    /// A conflict, as the user concerned may know it.
    RegistrationConflict {
        reason: &'static str,
    },
    /// An error of the application's side, as somebody without rights there may know it.
    AppRefused {
        sqlstate: String,
        constraint: Option<String>,
    },
    /// Who registers a reference lets fixes write it.
    NotYoursToMove {
        table: String,
        column: String,
    },
    /// Ends a subtransaction whose work was only tried.
    Rehearsed,
    /// An error that was caught and is passed on as it came.
    Raised(Box<Failure>),
}

impl From<Box<Failure>> for Error {
    fn from(failure: Box<Failure>) -> Self {
        Error::Raised(failure)
    }
}

/// Names and values come from anywhere: none may make one line look like two.
pub fn plain(text: &str) -> String {
    text.chars().map(printable).collect()
}
