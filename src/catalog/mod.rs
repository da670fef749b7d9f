//! What the database looks like: the two tables, and what refers to the application's users.

pub mod tables;

pub use tables::{App, Auth, Column, Fold, House};
