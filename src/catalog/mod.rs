//! What the database looks like: the two tables, and what refers to the application's users.

pub mod code;
pub mod lookup;
pub mod references;
pub mod shape;
pub mod tables;

pub use lookup::{Way, Ways};
pub use tables::{App, Auth, Column, Deferrable, Fold, House};
