//! What the database looks like: the two tables, and what refers to the application's users.

pub mod code;
pub mod deferrable;
pub mod lookup;
pub mod references;
pub mod shape;
pub mod tables;

pub use deferrable::Deferrable;
pub use lookup::{Way, Ways};
pub use tables::{App, Auth, Column, Fold, House};
