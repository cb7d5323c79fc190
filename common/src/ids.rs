//! Names of things: nodes, streams, boots, registers, workloads, hashes.
//!
//! Owns the fixed-width identifiers and their one text form (lower-case hexadecimal), and the
//! grammar of workload names. Does not make identifiers: randomness is I/O, so whoever draws an
//! identifier passes the bytes in.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Wrong length or alphabet.
    #[error("{text:?} is not {expected}: give {hex_digits} lower-case hexadecimal digits")]
    NotHex {
        /// What was given.
        text: String,
        /// What it should have been.
        expected: &'static str,
        /// How many digits that has.
        hex_digits: usize,
    },
    /// A workload name outside the grammar.
    #[error("{name:?} is not a workload name: {why}")]
    Workload {
        /// What was given.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Number of bytes.
            pub const LEN: usize = $len;

            /// All bits zero: no identifier that was ever drawn.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// From a slice of exactly the right length, as a store keeps it.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), HEXLOWER.encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| IdError::NotHex {
                        text: text.to_owned(),
                        expected: $what,
                        hex_digits: 2 * $len,
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

byte_id!(
    /// An enrolled host. Drawn by the reconciler at enrolment, 128 random bits.
    NodeId, 16, "a node id"
);
byte_id!(
    /// The life of one agent buffer. Drawn by the agent when it begins a buffer, 128 random bits.
    StreamId, 16, "a stream id"
);
byte_id!(
    /// One boot of a kernel: the 128 bits of `/proc/sys/kernel/random/boot_id`.
    BootId, 16, "a boot id"
);
byte_id!(
    /// The life of one reconciler store; a restored backup begins a new one.
    StoreEpoch, 16, "a store epoch"
);
byte_id!(
    /// A BLAKE3 hash or Merkle root, 256 bits.
    Hash, 32, "a hash"
);

/// The name of a register within its stream: numbered from 0 in the order of opening, never
/// reused in the stream.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct RegisterId(pub u64);

impl fmt::Display for RegisterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a segment in its stream, from 0 without a hole.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// The first of a stream.
    pub const FIRST: Self = Self(0);

    /// The one after. Saturates at the end of the numbers, which no stream reaches.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is metered on a node, by name.
///
/// | name | what |
/// |---|---|
/// | `host` | the whole node: control reading, never rated |
/// | `host/other` | host minus metered workloads |
/// | `cgroup/PATH` | one control group, path without the leading slash |
/// | `interface/NAME` | one network interface |
/// | `filesystem/PATH` | one mounted file system, by mount point |
/// | `app/NAME` | usage that an application reports |
///
/// Grammar: 1 to 512 bytes of UTF-8 without control characters, not beginning or ending in `/`
/// (`filesystem//` for the root file system is written `filesystem/root`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct WorkloadName(String);

impl WorkloadName {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = 512;

    /// The control reading of the whole node.
    pub const HOST: &'static str = "host";

    /// Host minus metered workloads.
    pub const HOST_OTHER: &'static str = "host/other";

    /// Checks the grammar.
    ///
    /// # Errors
    /// Names the rule that the text breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > Self::MAX_BYTES {
            "it is longer than 512 bytes"
        } else if name.chars().any(char::is_control) {
            "it has control characters"
        } else if name.starts_with('/') || name.ends_with('/') {
            "it begins or ends with a slash"
        } else {
            return Ok(Self(name));
        };
        Err(IdError::Workload { name, why })
    }

    /// `host`.
    #[must_use]
    pub fn host() -> Self {
        Self(Self::HOST.to_owned())
    }

    /// `host/other`.
    #[must_use]
    pub fn host_other() -> Self {
        Self(Self::HOST_OTHER.to_owned())
    }

    /// Whether this is the control reading, which is never rated.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == Self::HOST
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WorkloadName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for WorkloadName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text_form() {
        let id = NodeId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(
            "AB".repeat(16).parse::<NodeId>().is_err(),
            "upper case is another spelling"
        );
        assert!("ab".parse::<NodeId>().is_err());
    }

    #[test]
    fn workload_names_follow_the_grammar() {
        for good in [
            "host",
            "host/other",
            "cgroup/system.slice/ssh.service",
            "app/billing π",
        ] {
            assert_eq!(WorkloadName::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(513);
        for bad in ["", "/host", "host/", "a\nb", long.as_str()] {
            assert!(WorkloadName::new(bad).is_err(), "{bad:?}");
        }
    }
}
