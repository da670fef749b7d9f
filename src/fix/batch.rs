//! `CALL onagui.fix_all_user_ids()`: all users, committing after each batch.

use super::repair::Repair;
use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Call, Reply, connect_nonatomic};
use crate::statements::candidates::{Order, Pair};
use std::collections::HashSet;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Progress {
    looked_at: usize,
    done: u64,
    failed: u64,
    rows: u64,
    /// Time the batches took; to find out whom to fix is not counted, so that the first ones do not look slow.
    taken: Duration,
}

/// Goes on where it stopped when called again: what is done is not out of step any more.
pub fn fix_all_user_ids(call: &Call) -> Result<Reply, Error> {
    let size = match call.arg::<i32>(0) {
        None => {
            return Err(Error::NullArgument { name: "p_batch_size" });
        }
        Some(size) if size < 1 => {
            return Err(Error::BadArgument {
                name: "p_batch_size",
                value: size.to_string(),
                wanted: "a number of users from 1 on",
            });
        }
        Some(size) => size as usize,
    };
    let policy = super::policy(call, 1)?;
    if !call.may_commit() {
        return Err(Error::InTransaction);
    }
    let actor = super::actor();
    let start = || {
        let repair = Repair::start(House::find()?, true, policy, actor.clone())?;
        Ok::<_, Error>(Repair { everybody: true, ..repair })
    };
    let mut progress = Progress::default();
    let mut seen: HashSet<Pair> = HashSet::new();
    connect_nonatomic(|connection| {
        // What is done may let others be helped: whose e-mail was free again, for instance. So look until there is nobody.
        loop {
            let surveyor = start()?;
            let list = surveyor.list(Order::Place, None);
            list.keep();
            let mut surveyed_at = surveyor.surveyed_at.get();
            let mut again = seen.len();
            let mut helped = false;
            loop {
                pg::restart_statement_timeout();
                let mut batch = list.next(size);
                if batch.is_empty() {
                    break;
                }
                let listed = batch.len();
                batch.retain(|candidate| !seen.contains(&candidate.pair()));
                again = again.saturating_sub(listed - batch.len());
                let listed_here = batch.len();
                if batch.is_empty() {
                    continue;
                }
                helped = true;
                let started = Instant::now();
                // What refers to the users is looked up anew: there may be new tables since the last commit.
                let repair = start()?;
                repair.seen.replace(std::mem::take(&mut seen));
                repair.surveyed_at.set(surveyed_at);
                let outcomes = repair.run(batch)?;
                progress.looked_at += outcomes.len();
                // Others than were listed here were brought forward, and are listed still.
                again += outcomes.len() - listed_here;
                for outcome in outcomes {
                    if outcome.outcome == "done" {
                        progress.done += 1;
                        progress.rows += outcome.rows_changed;
                    } else {
                        progress.failed += u64::from(outcome.failure.is_some());
                    }
                }
                seen = repair.seen.take();
                // Nobody notices the end of a transaction that wrote nothing.
                surveyed_at += u64::from(pg::has_written());
                connection.commit();
                progress.taken += started.elapsed();
                let left = list.left().unwrap_or_default().saturating_sub(again);
                progress.report("batch committed", left, None);
                pg::check_interrupts();
            }
            if !helped {
                progress.report("finished", 0, (progress.failed > 0).then_some(WHO_FAILED));
                return Ok(());
            }
        }
    })?;
    Ok(Reply::Null)
}

const WHO_FAILED: &str = "SELECT onagui.sync_report(); tells who is left, and why they failed; the audit log, of all who ever did.";

impl Progress {
    fn report(&self, what: &str, left: usize, hint: Option<&str>) {
        let Progress { looked_at, done, failed, rows, taken } = self;
        let rate = *looked_at as f64 / taken.as_secs_f64().max(0.001);
        let rest = Duration::from_secs_f64(left as f64 / rate.max(0.001)).as_secs();
        pg::notice(
            format!(
                "{what}: {done} users done, {left} left, {failed} failed, {rows} referring rows moved, {rate:.0} users/s, {rest} s to go"
            ),
            hint.map(str::to_owned),
        );
    }
}
