//! Sealed segments on their way to the reconciler, and receipts on their way back.
//!
//! Owns the conversation: who is talked to, what is sent next, what each answer means. Does not own
//! segments (`buffer`), nor when they are sealed (`run`). Nothing is forgotten here before a receipt
//! has been verified (I2).

pub mod backoff;
pub mod connection;
pub mod enroll;
pub mod tls;
