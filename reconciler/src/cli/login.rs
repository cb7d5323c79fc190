//! `login-link`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use super::Session;
use super::output::say;
use crate::{auth, clock};

/// A login link for the console: it works once, within 15 minutes, while `serve` runs.
#[derive(Debug, Args)]
pub(super) struct LoginLink {
    /// Where the console is reached, such as https://tally.example.net; the configured address if not given.
    #[arg(long, value_name = "URL", value_parser = base)]
    base: Option<String>,
}

impl LoginLink {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let code = auth::create_login(&session.store, &session.actor, clock::now()).await?;
        let base = self
            .base
            .unwrap_or_else(|| format!("http://{}", from_here(session.config.http)));
        let link = format!("{base}/login?code={}", code.reveal());
        if session.output.json {
            return session.output.value(&serde_json::json!({ "login": link }));
        }
        say(&format!("{link}\n"))
    }
}

/// What a browser can open; without the slashes at its end.
fn base(text: &str) -> Result<String, String> {
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match host {
        Some(host) if !host.trim_matches('/').is_empty() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("write it as https://tally.example.net".to_owned()),
    }
}

/// An address to connect to, for one to listen on.
fn from_here(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_something_to_open() {
        assert_eq!(base("https://t.example/").unwrap(), "https://t.example");
        for bad in ["t.example", "", "https://", "ftp://t.example"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_goes_where_a_browser_can_connect() {
        let all = [
            ("0.0.0.0:8620", "127.0.0.1:8620"),
            ("[::]:8620", "[::1]:8620"),
            ("192.0.2.7:80", "192.0.2.7:80"),
        ];
        for (listen, expected) in all {
            assert_eq!(from_here(listen.parse().unwrap()).to_string(), expected);
        }
    }
}
