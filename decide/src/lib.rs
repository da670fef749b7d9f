//! The decisions of `onagui_sync`: plain values in, a decision out. No Postgres type, no SQL, no side effect.

pub mod differences;
pub mod failure;
pub mod names;
pub mod registration;
pub mod repair;
pub mod signup;
