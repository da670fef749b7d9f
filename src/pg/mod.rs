//! The only room with `unsafe`: everything that touches the server's memory.
//!
//! What leaves this room is safe to use from the others. A Postgres error travels as a Rust panic from the call that
//! raised it up to a [`subtransaction`] or to the [`door`](crate::door), the only two places that catch it. (What hooks of
//! ours do beside the server's own work is caught in the hook.)

mod aside;
mod call;
mod capture;
mod cursor;
mod doors;
mod encoding;
mod kept;
mod levels;
mod loader;
mod nobody;
mod owner;
mod planning;
mod portals;
mod procedure;
mod reading;
mod receiver;
mod rows;
mod rowset;
mod server;
mod spi;
mod subxact;
mod trigger;
mod values;

pub use call::{Call, Reply, RowWriter};
pub use cursor::Cursor;
pub use doors::enter;
pub use kept::Kept;
pub use levels::{QueryLevel, triggers_wait};
pub use loader::Loader;
pub use owner::{
    Lockwait, as_role, as_role_without_code, as_session, current_role, with_pinned_path,
    with_stable_text,
};
pub use planning::{Guarded, Role};
pub use procedure::{connect_nonatomic, restart_statement_timeout};
pub use rows::Rows;
pub use rowset::{Person, RowSet, Seen};
pub use server::*;
pub use spi::{Arg, Mode, Plan, Session, connect};
pub use subxact::{go_on, rehearsal, subtransaction};
pub use trigger::{TriggerCall, TriggerEvent};
pub use values::{Json, JsonbText, Raw};
