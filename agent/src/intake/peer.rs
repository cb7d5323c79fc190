//! Who is at the other end of a connection, and for whom it may report.
//!
//! The kernel says which process connected (`SO_PEERCRED`), `/proc/PID/cgroup` in which control group it is.
//! A process reports for the workload it is part of: the metered control group around it, or, where none is
//! metered, its own group. It may also name its own group, or anything below that: so a service can divide
//! its usage further. For anybody else only users whom the configuration names may report.

use std::path::Path;

use tokio::net::unix::UCred;

use crate::config::Globs;

/// The process that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Whether it may report for anybody.
    pub(super) for_others: bool,
    place: Option<Place>,
}

/// Where a process is among the control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Its own group.
    own: String,
    /// The metered one around it.
    workload: String,
}

/// It may not report for that workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Foreign {
    #[error(
        "the process is in no control group of its own, so there is no workload it could be: name one, and list its user in intake.report_for_others"
    )]
    Nobody,
    #[error(
        "the process is part of {own:?} and may report for it and what is below it only, not for {wanted:?}: list its user in intake.report_for_others to let it"
    )]
    Another { own: String, wanted: String },
    #[error(
        "the process is in no control group of its own and may not report for {0:?}: list its user in intake.report_for_others to let it"
    )]
    NobodyElse(String),
}

impl Caller {
    /// The process with these credentials.
    pub(super) fn of(
        credentials: Option<UCred>,
        allowed: &[u32],
        globs: &Globs,
        proc: &Path,
    ) -> Self {
        let for_others = credentials.is_some_and(|peer| allowed.contains(&peer.uid()));
        let place = credentials
            .and_then(|peer| peer.pid())
            .filter(|pid| *pid > 0)
            .and_then(|pid| std::fs::read_to_string(proc.join(format!("{pid}/cgroup"))).ok())
            .and_then(|text| place(&text, globs));
        Self { for_others, place }
    }

    /// The agent itself, which asks the targets that its configuration names.
    #[cfg(any(test, feature = "decoders"))]
    pub(super) fn trusted() -> Self {
        Self {
            for_others: true,
            place: None,
        }
    }

    /// The workload it reports for: the one it asks for if it may, else its own.
    pub(super) fn workload<'a>(&'a self, wanted: Option<&'a str>) -> Result<&'a str, Foreign> {
        match (wanted, &self.place) {
            (None, Some(place)) => Ok(&place.workload),
            (None, None) => Err(Foreign::Nobody),
            (Some(wanted), _) if self.for_others => Ok(wanted),
            (Some(wanted), Some(place)) if place.covers(wanted) => Ok(wanted),
            (Some(wanted), Some(place)) => Err(Foreign::Another {
                own: place.own.clone(),
                wanted: wanted.to_owned(),
            }),
            (Some(wanted), None) => Err(Foreign::NobodyElse(wanted.to_owned())),
        }
    }
}

impl Place {
    fn covers(&self, wanted: &str) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
        wanted == self.workload || wanted.strip_prefix(&self.own).is_some_and(below)
    }
}

/// The place that `/proc/PID/cgroup` says. A process has one group in each hierarchy; the one it is metered in
/// counts, else the first in this order in which it is not at the root.
fn place(text: &str, globs: &Globs) -> Option<Place> {
    const ORDER: [&str; 5] = ["cpuacct", "", "memory", "pids", "name=systemd"];
    let mut groups: Vec<(usize, &str)> = text
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let rank = ORDER
                .iter()
                .position(|known| controllers.split(',').any(|name| name == *known));
            let path = path.trim_start_matches('/').trim_end_matches(" (deleted)");
            // Outside what this process can see: not a name that means anything here.
            let named = !path.is_empty() && !path.split('/').any(|part| part == "..");
            named.then_some((rank.unwrap_or(ORDER.len()), path))
        })
        .collect();
    groups.sort_by_key(|(rank, _)| *rank);
    let metered = groups
        .iter()
        .find_map(|(_, path)| Some((*path, metered(path, globs)?)));
    let (own, workload) = metered.or_else(|| groups.first().map(|(_, path)| (*path, *path)))?;
    Some(Place {
        own: own.to_owned(),
        workload: workload.to_owned(),
    })
}

/// The outermost group at or above `path` that is metered: metered groups do not contain one another.
fn metered<'a>(path: &'a str, globs: &Globs) -> Option<&'a str> {
    let ends = path.match_indices('/').map(|(slash, _)| slash);
    ends.chain([path.len()])
        .map(|end| &path[..end])
        .find(|outer| globs.selects(outer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Selection;

    fn globs(include: &[&str]) -> Globs {
        let include = include.iter().map(|glob| (*glob).to_owned()).collect();
        let exclude = Vec::new();
        Selection { include, exclude }.compile().unwrap()
    }

    fn caller(text: &str, include: &[&str]) -> Caller {
        Caller {
            for_others: false,
            place: place(text, &globs(include)),
        }
    }

    const WEB: &str = "0::/system.slice/web.service\n";

    #[test]
    fn a_process_reports_for_the_metered_group_around_it() {
        let services = caller(WEB, &["system.slice/*"]);
        assert_eq!(services.workload(None), Ok("system.slice/web.service"));
        let slices = caller(WEB, &["*"]);
        assert_eq!(slices.workload(None), Ok("system.slice"));
        let unmetered = caller(WEB, &["machine.slice/*"]);
        assert_eq!(unmetered.workload(None), Ok("system.slice/web.service"));
    }

    #[test]
    fn it_may_name_itself_and_what_is_below_it_and_nothing_else() {
        let web = caller(WEB, &["*"]);
        for own in [
            "system.slice",
            "system.slice/web.service",
            "system.slice/web.service/tenant-7",
        ] {
            assert_eq!(web.workload(Some(own)), Ok(own));
        }
        for other in [
            "system.slice/web.services",
            "system.slice/db.service",
            "user.slice",
            "",
        ] {
            assert!(web.workload(Some(other)).is_err(), "{other}");
        }
        let mut allowed = web;
        allowed.for_others = true;
        assert_eq!(allowed.workload(Some("user.slice")), Ok("user.slice"));
    }

    #[test]
    fn on_a_hybrid_host_the_group_it_is_metered_in_counts() {
        let text =
            "9:name=systemd:/user.slice\n4:cpu,cpuacct:/docker/3f\n2:pids:/\n0::/user.slice\n";
        assert_eq!(caller(text, &["docker/*"]).workload(None), Ok("docker/3f"));
        assert_eq!(caller(text, &["none"]).workload(None), Ok("docker/3f"));
        let text = "4:cpu,cpuacct:/\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(
            caller(text, &["none"]).workload(None),
            Ok("system.slice/a.service")
        );
    }

    #[test]
    fn a_process_outside_every_group_is_nobody() {
        for text in ["0::/\n", "0::/../other\n", "", "nonsense"] {
            let nobody = caller(text, &["*"]);
            assert_eq!(nobody.workload(None), Err(Foreign::Nobody), "{text}");
            assert!(nobody.workload(Some("a")).is_err(), "{text}");
        }
        assert_eq!(Caller::trusted().workload(Some("a")), Ok("a"));
    }
}
