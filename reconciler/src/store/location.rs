//! Where a store is: a file, or a database of a PostgreSQL server.
//!
//! Whatever is printed of a location leaves the password out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

/// Name of the database when a socket's folder is all that is said.
const DATABASE: &str = "tallystick";

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// A PostgreSQL database.
    Server(Server),
}

/// A PostgreSQL database, by its URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    url: String,
}

/// A location that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "store: {why}; write postgres://USER@HOST/DATABASE, postgres:///DATABASE?host=FOLDER for a socket in a folder, \
     the folder of a server's socket (database {DATABASE}), or the path of a file"
)]
pub struct BadLocation {
    why: String,
}

impl Location {
    /// What a person wrote. Relative paths start in `base`.
    ///
    /// # Errors
    /// When it is a URL that is no server's.
    pub fn parse(text: &str, base: &Path) -> Result<Self, BadLocation> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // What the parser says of a URL that it cannot read has nothing of the URL in it.
            PgConnectOptions::from_str(text).map_err(|error| BadLocation {
                why: format!("the URL of the server cannot be read ({error})"),
            })?;
            let url = text.to_owned();
            return Ok(Self::Server(Server { url }));
        }
        if text.is_empty() || text.contains("://") {
            let why = "neither a path nor a URL that begins with postgres://".to_owned();
            return Err(BadLocation { why });
        }
        let path = base.join(text);
        if !path.is_dir() {
            return Ok(Self::File(path));
        }
        let folder: String = path.display().to_string().bytes().map(escaped).collect();
        let url = format!("postgres:///{DATABASE}?host={folder}");
        Ok(Self::Server(Server { url }))
    }
}

/// A byte as a URL's query takes it.
fn escaped(byte: u8) -> String {
    match byte {
        b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}

impl Server {
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        PgConnectOptions::from_str(&self.url)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(server) => server.fmt(f),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(options) = self.options() else {
            return f.write_str("postgres://…");
        };
        let (user, database) = (options.get_username(), options.get_database());
        let database = database.unwrap_or(user);
        match options.get_socket() {
            Some(folder) => {
                let folder = folder.display();
                write!(f, "postgres:///{database}?host={folder}&user={user}")
            }
            None => {
                let (host, port) = (options.get_host(), options.get_port());
                write!(f, "postgres://{user}@{host}:{port}/{database}")
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, BadLocation> {
        Location::parse(text, Path::new("/var/lib/tallystick"))
    }

    #[test]
    fn paths_start_in_the_folder_and_urls_are_servers() {
        let file = Location::File("/var/lib/tallystick/a.sqlite".into());
        assert_eq!(parse("a.sqlite"), Ok(file));
        assert_eq!(parse("/a b"), Ok(Location::File("/a b".into())));
        let server = parse("postgres://tally@db.example:5433/usage").unwrap();
        assert_eq!(server.to_string(), "postgres://tally@db.example:5433/usage");
        for wrong in ["", "mysql://host/db", "postgres://host:port/db"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_is_that_of_a_socket() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a socket&");
        std::fs::create_dir(&socket).unwrap();
        let told = parse(socket.to_str().unwrap()).unwrap().to_string();
        let beginning = format!("postgres:///tallystick?host={}&user=", socket.display());
        assert!(told.starts_with(&beginning), "{told}");
    }

    #[test]
    fn a_password_is_never_printed() {
        let server = parse("postgres://tally:hunter2@db.example/usage?sslmode=require").unwrap();
        let wrong = parse("postgres://tally:hunter2@db.example:x/usage").unwrap_err();
        for told in [
            server.to_string(),
            format!("{server:?}"),
            format!("{wrong:?} {wrong}"),
        ] {
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
