//! The only room with `unsafe`: everything that touches the server's memory.
//!
//! What leaves this room is safe to use from the others. A Postgres error travels as a Rust panic from the call that
//! raised it up to a [`subtransaction`] or to the [`door`](crate::door), the only two places that catch it.

mod aside;
mod call;
mod capture;
mod doors;
mod levels;
mod nobody;
mod owner;
mod procedure;
mod rowset;
mod server;
mod spi;
mod subxact;
mod trigger;

pub use call::{Call, Reply, RowWriter};
pub use doors::enter;
pub use levels::QueryLevel;
pub use nobody::planned_by_nobody;
pub use owner::{Lockwait, as_role, current_role, with_stable_text};
pub use procedure::{connect_nonatomic, restart_statement_timeout};
pub use rowset::{Person, RowSet};
pub use server::*;
pub use spi::{Arg, Mode, Plan, Rows, Session, connect};
pub use subxact::subtransaction;
pub use trigger::{TriggerCall, TriggerEvent};
