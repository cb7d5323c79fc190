//! Both sides of the way, and what is needed to test them.

pub mod fixture;
pub mod poll;
pub mod process;
