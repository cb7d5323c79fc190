//! Both sides of the way, and what is needed to test them.

pub mod cgroup;
pub mod draw;
pub mod fixture;
pub mod http;
pub mod poll;
pub mod process;
pub mod sides;
