//! Moving a user to another id, with all that refers to it.

use super::signup::Target;
use crate::error::Error;
use pgrx::Uuid;

pub struct Moved {
    pub rows: u64,
    pub details: serde_json::Value,
}

pub fn rekey(_target: &Target, _from: Uuid, _to: Uuid) -> Result<Moved, Error> {
    Err(Error::NotWhole)
}
