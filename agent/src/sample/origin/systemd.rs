//! Names of systemd units, and their escaping (systemd.unit(5), `systemd-escape`).

/// A unit's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit<'n> {
    pub(super) whole: &'n str,
    /// Without the suffix.
    pub(super) name: &'n str,
    /// Without its dot.
    pub(super) suffix: &'n str,
}

/// The types of units that have a control group.
const SUFFIXES: [&str; 6] = ["slice", "service", "scope", "socket", "mount", "swap"];

impl<'n> Unit<'n> {
    pub(super) fn of(whole: &'n str) -> Option<Self> {
        let (name, suffix) = whole.rsplit_once('.')?;
        (!name.is_empty() && SUFFIXES.contains(&suffix)).then_some(Self {
            whole,
            name,
            suffix,
        })
    }
}

/// What was escaped into a unit's name: `-` stands for `/`, `\xNN` for a byte. What is not an escape
/// stands for itself; bytes that make no UTF-8 leave the text as it is.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        if let Some(byte) = escape(rest) {
            bytes.push(byte);
            rest = &rest[4..];
        } else {
            let width = rest.chars().next().map_or(1, char::len_utf8);
            match first {
                b'-' => bytes.push(b'/'),
                _ => bytes.extend_from_slice(&rest.as_bytes()[..width]),
            }
            rest = &rest[width..];
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The byte of a `\xNN` at the start.
fn escape(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("\\x")?.get(..2)?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_as_systemd_escape_does() {
        for (escaped, plain) in [
            (r"qemu\x2d1\x2dvm1", "qemu-1-vm1"),
            ("var-lib-docker", "var/lib/docker"),
            (r"caf\xc3\xa9", "café"),
            (r"a\x2", r"a\x2"),
            (r"a\xzz", r"a\xzz"),
            (r"\xff", r"\xff"),
            ("é-x", "é/x"),
        ] {
            assert_eq!(unescaped(escaped), plain, "{escaped}");
        }
    }

    #[test]
    fn a_unit_has_a_name_and_a_known_suffix() {
        let unit = Unit::of("user@1000.service").unwrap();
        assert_eq!((unit.name, unit.suffix), ("user@1000", "service"));
        assert_eq!(Unit::of("web.conf"), None);
        assert_eq!(Unit::of(".slice"), None);
        assert_eq!(Unit::of("slice"), None);
    }
}
