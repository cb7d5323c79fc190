//! What a control group is, told from its path: unit, container, pod, machine.
//!
//! Pure. Owns the naming of systemd, Docker, Podman, containerd, CRI-O, the kubelet, LXC, libvirt and
//! Proxmox, under both cgroup drivers (`systemd` names units, `cgroupfs` names plain folders) and in v1
//! and v2 alike: the path below the hierarchy's root is the same. Does not ask anybody whether it is so.
//! A path that nobody here made is a plain `cgroup`.

use systemd::Unit;

mod systemd;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Origin {
    /// The innermost thing recognised.
    pub(super) kind: Kind,
    /// Of a container: its id, in full.
    pub(super) container: Option<String>,
    /// Of a pod, or of a container in one: as the API server writes its uid; of a static pod the hash of
    /// its manifest.
    pub(super) pod: Option<String>,
    /// The quality of service of the pods.
    pub(super) qos: Option<&'static str>,
    /// Of an LXC container, an nspawn container, a registered or virtual machine: its name.
    pub(super) machine: Option<String>,
    /// The innermost systemd unit, as `systemctl` writes it.
    pub(super) unit: Option<String>,
    /// The innermost slice around it, or itself.
    pub(super) slice: Option<String>,
    /// The user whose slice it is in.
    pub(super) user: Option<String>,
}

/// Names of kinds stand in sealed bytes as the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Cgroup,
    Slice,
    Service,
    Scope,
    Docker,
    Podman,
    Containerd,
    CriO,
    /// A container whose runtime the path does not name.
    Container,
    /// All pods, or all of one quality of service.
    Pods,
    Pod,
    Lxc,
    Nspawn,
    /// Registered with systemd-machined, of no kind known here.
    Machine,
    Libvirt,
    Proxmox,
}

impl Origin {
    /// Of the group at `path`, below the root and without a leading slash.
    pub(super) fn of(path: &str) -> Self {
        let mut origin = Self::default();
        let mut before = "";
        for part in path.split('/') {
            // What is inside a container or a machine is its own affair, and named by it.
            if origin.container.is_none() && origin.machine.is_none() {
                origin.enter(before, part);
            }
            before = part;
        }
        origin
    }

    /// The labels that this gives a workload, besides those that have to be looked up.
    pub(super) fn labels(&self) -> Vec<(String, String)> {
        let found = [
            ("kind", Some(self.kind.name())),
            ("container.id", self.container.as_deref()),
            ("k8s.pod.uid", self.pod.as_deref()),
            ("k8s.qos", self.qos),
            ("machine.name", self.machine.as_deref()),
            ("systemd.unit", self.unit.as_deref()),
            ("systemd.slice", self.slice.as_deref()),
            ("user.id", self.user.as_deref()),
        ];
        let known = |(key, value): (&str, Option<&str>)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some((key.to_owned(), value.to_owned()))
        };
        found.into_iter().filter_map(known).collect()
    }

    /// One level further in: `part`, which lies in `before`.
    fn enter(&mut self, before: &str, part: &str) {
        // systemd puts `_` before names that would be taken for the kernel's files.
        let part = part.strip_prefix('_').unwrap_or(part);
        if let Some((slice, kind, id)) = mixed_up(part) {
            self.enter(before, slice);
            self.enter_container(kind, id);
        } else if let Some(unit) = Unit::of(part) {
            self.enter_unit(&unit);
        } else if let Some(kind) = self.folder(before, part) {
            self.kind = kind;
        }
    }

    fn enter_unit(&mut self, unit: &Unit<'_>) {
        self.unit = Some(unit.whole.to_owned());
        match unit.suffix {
            "slice" => self.enter_slice(unit),
            "scope" => self.enter_scope(unit),
            _ => self.enter_service(unit),
        }
    }

    /// Whatever unit it has says what its id says.
    fn enter_container(&mut self, kind: Kind, id: &str) {
        self.kind = kind;
        self.container = Some(id.to_owned());
        self.unit = None;
    }

    fn enter_slice(&mut self, unit: &Unit<'_>) {
        self.slice = Some(unit.whole.to_owned());
        self.kind = Kind::Slice;
        if let Some(user) = unit.name.strip_prefix("user-").filter(|id| is_number(id)) {
            self.user = Some(user.to_owned());
        }
        // `kubepods`, or below a slice of the kubelet's own (kind): `kubelet-kubepods`.
        let Some(at) = unit.name.find("kubepods") else {
            return;
        };
        self.kind = Kind::Pods;
        let rest = &unit.name[at..];
        self.qos = qos(rest);
        if let Some((around, uid)) = rest.split_once("-pod").filter(|(_, uid)| !uid.is_empty()) {
            self.enter_pod(qos(around), &uid.replace('_', "-"));
        }
    }

    /// Guaranteed pods stand beside the folders of the others.
    fn enter_pod(&mut self, qos: Option<&'static str>, uid: &str) {
        self.kind = Kind::Pod;
        self.pod = Some(uid.to_owned());
        self.qos = qos.or(Some("guaranteed"));
    }

    fn enter_scope(&mut self, unit: &Unit<'_>) {
        self.kind = Kind::Scope;
        if let Some((kind, id)) = container_scope(unit.name) {
            self.enter_container(kind, id);
        } else if let Some(name) = unit.name.strip_prefix("machine-") {
            let (kind, name) = machine(&systemd::unescaped(name));
            self.kind = kind;
            self.machine = Some(name);
        } else if self.slice.as_deref() == Some("qemu.slice") && is_number(unit.name) {
            self.kind = Kind::Proxmox;
            self.machine = Some(unit.name.to_owned());
        }
    }

    fn enter_service(&mut self, unit: &Unit<'_>) {
        self.kind = Kind::Service;
        if let Some(("systemd-nspawn", name)) = unit.name.split_once('@') {
            self.kind = Kind::Nspawn;
            self.machine = Some(systemd::unescaped(name));
        }
    }

    /// A folder that no systemd made.
    fn folder(&mut self, before: &str, part: &str) -> Option<Kind> {
        if let Some(kind) = self.kubernetes_folder(part) {
            return Some(kind);
        }
        if let Some(name) = lxc_folder(before, part) {
            self.machine = Some(name.to_owned());
            return Some(Kind::Lxc);
        }
        if let Some(name) = part
            .strip_suffix(".libvirt-qemu")
            .or_else(|| part.strip_suffix(".libvirt-lxc"))
        {
            let name = name.strip_prefix("qemu-").unwrap_or(name);
            self.machine = Some(without_number(name).to_owned());
            return Some(Kind::Libvirt);
        }
        let (kind, id) = container_folder(before, part, self.pod.is_some())?;
        self.container = Some(id.to_owned());
        Some(kind)
    }

    fn kubernetes_folder(&mut self, part: &str) -> Option<Kind> {
        if part == "kubepods" {
            return Some(Kind::Pods);
        }
        if self.kind != Kind::Pods {
            return None;
        }
        let uid = part.strip_prefix("pod").filter(|uid| !uid.is_empty());
        if let Some(uid) = uid {
            self.enter_pod(self.qos, uid);
            return Some(Kind::Pod);
        }
        self.qos = qos(part).or(self.qos);
        Some(Kind::Pods)
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Slice => "slice",
            Self::Service => "service",
            Self::Scope => "scope",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Container => "container",
            Self::Pods => "pods",
            Self::Pod => "pod",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
            Self::Machine => "machine",
            Self::Libvirt => "libvirt",
            Self::Proxmox => "proxmox",
        }
    }
}

/// Of a name like `kubepods-burstable`.
fn qos(within: &str) -> Option<&'static str> {
    ["burstable", "besteffort"]
        .into_iter()
        .find(|qos| within.contains(qos))
}

/// A runtime told to use cgroupfs, given a path for systemd, makes a folder `SLICE:PREFIX:ID`.
fn mixed_up(part: &str) -> Option<(&str, Kind, &str)> {
    let [slice, prefix, id] = part.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let kind = match prefix {
        "docker" => Kind::Docker,
        "cri-containerd" => Kind::Containerd,
        "crio" => Kind::CriO,
        "libpod" => Kind::Podman,
        _ => Kind::Container,
    };
    is_id(id).then_some((slice, kind, id))
}

/// `docker-ID`, `libpod-ID` and so on; not the helpers that run beside (`crio-conmon-ID`).
fn container_scope(name: &str) -> Option<(Kind, &str)> {
    let (prefix, id) = name.rsplit_once('-')?;
    let kind = match prefix {
        "docker" => Kind::Docker,
        "libpod" => Kind::Podman,
        "cri-containerd" | "nerdctl" => Kind::Containerd,
        "crio" => Kind::CriO,
        _ => return None,
    };
    is_id(id).then_some((kind, id))
}

/// A container of the cgroupfs driver.
fn container_folder<'p>(before: &str, part: &'p str, in_pod: bool) -> Option<(Kind, &'p str)> {
    let named = [
        ("libpod-", Kind::Podman),
        ("crio-", Kind::CriO),
        ("cri-containerd-", Kind::Containerd),
    ];
    let prefixed = named
        .iter()
        .find_map(|(prefix, kind)| Some((*kind, part.strip_prefix(prefix)?)));
    if let Some((kind, id)) = prefixed {
        return is_id(id).then_some((kind, id));
    }
    let kind = match before {
        "docker" => Kind::Docker,
        _ if in_pod => Kind::Container,
        // containerd's namespaces, ECS tasks, builders: an id in somebody's folder.
        _ if !before.is_empty() => Kind::Container,
        _ => return None,
    };
    is_id(part).then_some((kind, part))
}

/// `lxc/NAME`, `lxc.payload/NAME`, `lxc.payload.NAME`; the monitor is LXC's own.
fn lxc_folder<'p>(before: &str, part: &'p str) -> Option<&'p str> {
    match before {
        "lxc" | "lxc.payload" => Some(part),
        _ => part.strip_prefix("lxc.payload."),
    }
    .filter(|name| !name.is_empty())
}

/// The name under which a machine registered with systemd-machined; libvirt's begins with its
/// driver and the number of the run.
fn machine(name: &str) -> (Kind, String) {
    match name.split_once('-') {
        Some(("qemu" | "lxc", rest)) if without_number(rest) != rest => {
            (Kind::Libvirt, without_number(rest).to_owned())
        }
        _ => (Kind::Machine, name.to_owned()),
    }
}

/// `12-web` is `web`.
fn without_number(name: &str) -> &str {
    match name.split_once('-') {
        Some((number, rest)) if is_number(number) && !rest.is_empty() => rest,
        _ => name,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Runtimes name containers by 32 random bytes in hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
