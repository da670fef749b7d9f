//! `onagui.sync_status()` and `onagui.sync_summary()`.

use crate::catalog::House;
use crate::error::Error;
use crate::pg::{Call, Reply};
use crate::statements::status::{Overview, Question, STATUSES};

/// `sync_status(p_status text[], p_email text, p_limit bigint)`.
pub fn status(call: &Call) -> Result<Reply, Error> {
    let question =
        Question { wanted: wanted(call.arg(0))?, email: call.arg(1), limit: call.arg(2) };
    if question.limit.is_some_and(|limit| limit < 0) {
        return Err(Error::NegativeLimit { limit: question.limit.unwrap_or_default() });
    }
    let kept = Overview::get(House::find()?)?;
    kept.answer(&question, &call.rows());
    Ok(Reply::Null)
}

fn wanted(given: Option<Vec<Option<String>>>) -> Result<Vec<&'static str>, Error> {
    let Some(given) = given else {
        return Ok(STATUSES.to_vec());
    };
    for status in &given {
        if !status.as_ref().is_some_and(|status| STATUSES.contains(&status.as_str())) {
            let found = status.as_ref().map_or("NULL".to_owned(), |status| format!("'{status}'"));
            return Err(Error::UnknownStatus { found });
        }
    }
    Ok(STATUSES.into_iter().filter(|s| given.iter().flatten().any(|g| g == s)).collect())
}

/// `sync_summary()`.
pub fn summary(call: &Call) -> Result<Reply, Error> {
    let kept = Overview::get(House::find()?)?;
    let counted = kept.summary();
    let rows = call.rows();
    for (status, users) in counted {
        rows.put(&[status.into(), users.into()]);
    }
    Ok(Reply::Null)
}
