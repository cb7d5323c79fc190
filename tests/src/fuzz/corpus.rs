//! A target's corpus: one file, an input a line in base64, in order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::{Target, folder};

fn path(target: &Target) -> PathBuf {
    folder()
        .join("corpora")
        .join(format!("{}.base64", target.name))
}

/// The inputs that are kept.
///
/// # Panics
/// When the file is not there or damaged.
#[must_use]
pub fn kept(target: &Target) -> Vec<Vec<u8>> {
    let path = path(target);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let decode = |line: &str| BASE64.decode(line.as_bytes()).expect("a line is base64");
    text.lines().map(decode).collect()
}

/// Writes seeds and kept inputs into a folder, one a file, as libFuzzer reads them.
///
/// # Errors
/// When the folder cannot be written.
///
/// # Panics
/// When a corpus is damaged.
pub fn unpack(target: &Target, into: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(into)?;
    let mut inputs = (target.seeds)();
    if path(target).exists() {
        inputs.extend(kept(target));
    }
    for input in inputs {
        let name = blake3::hash(&input).to_hex();
        std::fs::write(into.join(&name[..16]), input)?;
    }
    Ok(())
}

/// Keeps the inputs in a folder, the shortest first, as many as fit.
///
/// # Errors
/// When something cannot be read or written.
pub fn pack(target: &Target, from: &Path) -> std::io::Result<()> {
    const MOST: usize = 300;
    const MOST_BYTES: usize = 140_000;
    let mut inputs = BTreeSet::new();
    for entry in std::fs::read_dir(from)? {
        let input = std::fs::read(entry?.path())?;
        inputs.insert((input.len(), input));
    }
    let mut bytes = 0;
    let mut text = String::new();
    for (length, input) in inputs.into_iter().take(MOST) {
        bytes += length;
        if bytes > MOST_BYTES {
            break;
        }
        text.push_str(&BASE64.encode(&input));
        text.push('\n');
    }
    std::fs::write(path(target), text)
}

/// Writes a target's words and longest input beside a folder, as libFuzzer reads them: `FOLDER.words`.
///
/// # Errors
/// When the file cannot be written.
pub fn words(target: &Target, folder: &Path) -> std::io::Result<()> {
    let mut text = format!("# max_bytes {}\n", target.max_bytes);
    for word in target.words {
        let escape = |byte: u8| format!("\\x{byte:02x}");
        let escaped: String = word.bytes().map(escape).collect();
        text.push_str(&format!("\"{escaped}\"\n"));
    }
    std::fs::write(folder.with_extension("words"), text)
}
