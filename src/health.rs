//! `onagui.sync_health()`: the troubleshooting chapter as a query.

use crate::catalog::House;
use crate::error::Error;
use crate::pg::{Call, Reply};
use crate::statements::health::{self, Finding};

/// `sync_health()`. Answers whatever is missing: a check that fails is a finding itself.
pub fn health(call: &Call) -> Result<Reply, Error> {
    let findings = health::examine(House::find()?)?;
    let rows = call.rows();
    for Finding { check, state, detail, remedy } in findings {
        let remedy = crate::pg::Arg::of(remedy);
        rows.put(&[check.into(), state.word().into(), detail.into(), remedy]);
    }
    Ok(Reply::Null)
}
