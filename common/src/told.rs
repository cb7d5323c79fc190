//! How an error is told to a person: in one line, from what was attempted down to the first cause.

use std::error::Error;

/// The chain of causes; a cause that the words before it tell already is not told twice.
#[must_use]
pub fn told(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes
        .map(|cause| cause.to_string().trim_end().to_owned())
        .fold(String::new(), join)
}

fn join(before: String, cause: String) -> String {
    if before.is_empty() {
        cause
    } else if before.contains(&cause) {
        before
    } else {
        format!("{before}: {cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("listen on {address}: {source}; choose another")]
        WithItsCause {
            address: &'static str,
            source: std::io::Error,
        },
        #[error("start")]
        Without(#[source] Box<Sample>),
    }

    #[test]
    fn each_cause_is_told_once() {
        let taken = Sample::WithItsCause {
            address: "[::1]:1",
            source: std::io::Error::other("taken"),
        };
        assert_eq!(told(&taken), "listen on [::1]:1: taken; choose another");
        let start = Sample::Without(Box::new(taken));
        assert_eq!(
            told(&start),
            "start: listen on [::1]:1: taken; choose another"
        );
    }
}
