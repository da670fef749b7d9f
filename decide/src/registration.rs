//! What a registration call asks for, and who may ask for it.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest e-mail, name or value that an error repeats, in characters.
const SHOWN: usize = 100;

/// Who calls, by the role in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Syncs anybody.
    Operator,
    /// Syncs the user of their own token only.
    User,
}

/// What the server knows of the role in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Role {
    pub is_superuser: bool,
    /// The extension's owner or the role that has installed it.
    pub is_installer: bool,
    pub is_service_role: bool,
    /// Is, or inherits from, `authenticated`.
    pub is_authenticated: bool,
    /// Inherits from `service_role`.
    pub inherits_service_role: bool,
}

/// Whoever is, or inherits from, `authenticated` is held to their own id, unless they are an operator in person. So is
/// everybody else who has been let in.
pub fn caller(role: Role) -> Caller {
    let in_person = role.is_superuser || role.is_installer || role.is_service_role;
    if in_person || role.inherits_service_role && !role.is_authenticated {
        Caller::Operator
    } else {
        Caller::User
    }
}

/// The user of a token: `sub` of `request.jwt.claims`. None where there is no such thing in it.
pub fn subject(claims: &str) -> Option<[u8; 16]> {
    #[derive(Deserialize)]
    struct Claims<'a> {
        #[serde(borrow)]
        sub: Option<&'a RawValue>,
    }
    if !is_object(claims) {
        return None;
    }
    let sub = serde_json::from_str::<Claims>(claims).ok()?.sub?;
    parse_uuid(&string(sub)?)
}

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    NotAnObject { found: &'static str },
    Missing { key: &'static str },
    WrongType { key: &'static str, found: &'static str, wanted: &'static str },
    NotAUuid { found: String },
    TooLong { key: &'static str, longest: usize },
    TooLongForIndex { key: &'static str, length: usize },
}

/// The body of a call as it came: looked at key by key, because the caller is checked before the rest of it.
#[derive(Debug, Deserialize)]
pub struct Body<'a> {
    #[serde(borrow, rename = "userId")]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    email: Option<&'a RawValue>,
    #[serde(borrow)]
    username: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub email: String,
    /// As given.
    pub username: Option<String>,
    /// The text of a JSON object. Never taken apart here, so that no number in it loses a digit.
    pub metadata: Option<String>,
}

impl<'a> Body<'a> {
    /// Takes the text of a JSON value.
    pub fn parse(text: &'a str) -> Result<Self, Wrong> {
        if !is_object(text) {
            return Err(Wrong::NotAnObject { found: kind(text) });
        }
        serde_json::from_str(text).map_err(|_| Wrong::NotAnObject { found: "something else" })
    }

    pub fn user_id(&self) -> Result<[u8; 16], Wrong> {
        let text = required("userId", "a string with a uuid", self.user_id)?;
        parse_uuid(&text).ok_or_else(|| Wrong::NotAUuid { found: shown(&text) })
    }

    /// The rest of the body. An empty username counts as absent, as it does at a sign-up.
    pub fn wanted(&self) -> Result<Wanted, Wrong> {
        let email = required("email", "a string", self.email)?;
        let username = self.username.map(|raw| required("username", "a string", Some(raw)));
        let username = username.transpose()?;
        let metadata = match self.metadata.map(RawValue::get) {
            Some(text) if !is_object(text) => {
                return Err(Wrong::WrongType {
                    key: "metadata",
                    found: kind(text),
                    wanted: "an object",
                });
            }
            other => other.map(str::to_owned),
        };
        Ok(Wanted { email, username: username.filter(|name| !name.is_empty()), metadata })
    }
}

fn required(
    key: &'static str,
    wanted: &'static str,
    raw: Option<&RawValue>,
) -> Result<String, Wrong> {
    let raw = raw.ok_or(Wrong::Missing { key })?;
    string(raw).ok_or(Wrong::WrongType { key, found: kind(raw.get()), wanted })
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

fn kind(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "something else",
    }
}

/// A value as an error may repeat it: not longer than anybody wants to read, and without control characters.
pub fn shown(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN).map(printable).collect();
    if value.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// `c`, or a replacement where it could make one line of a message look like two, or turn it round.
pub fn printable(c: char) -> char {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// A uuid in one of the usual forms: with hyphens or without, in either case.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    let hyphens = [8, 13, 18, 23];
    let digits: Vec<u8> = match text.len() {
        36 if hyphens.iter().all(|place| text[*place] == b'-') => text
            .iter()
            .enumerate()
            .filter(|(place, _)| !hyphens.contains(place))
            .map(|(_, c)| *c)
            .collect(),
        32 => text.to_vec(),
        _ => return None,
    };
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(id)
}

#[cfg(test)]
mod tests;
