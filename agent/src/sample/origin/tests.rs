//! Paths as they are met on real hosts.

use super::*;

/// 64 hexadecimal digits.
const ID: &str = "3c2d9c1e7b8f4a5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
const UID: &str = "0f2ab9d1-6e1c-4a52-9d4e-1f5a3c7b8d90";
const UID_UNIT: &str = "0f2ab9d1_6e1c_4a52_9d4e_1f5a3c7b8d90";
/// A static pod's: the hash of its manifest.
const STATIC: &str = "8d2ab9d16e1c4a529d4e1f5a3c7b8d90";

fn written_out(text: &str) -> String {
    [
        ("UID_UNIT", UID_UNIT),
        ("STATIC", STATIC),
        ("UID", UID),
        ("ID", ID),
    ]
    .iter()
    .fold(text.to_owned(), |text, (short, long)| {
        text.replace(short, long)
    })
}

fn labels(path: &str) -> String {
    let labels = Origin::of(&written_out(path)).labels();
    let written: Vec<String> = labels
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    written.join(" ")
}

/// Each path, and its labels in the order of [`Origin::labels`].
const TABLE: &[(&str, &str)] = &[
    // systemd
    (
        "system.slice",
        "kind=slice systemd.unit=system.slice systemd.slice=system.slice",
    ),
    (
        "system.slice/ssh.service",
        "kind=service systemd.unit=ssh.service systemd.slice=system.slice",
    ),
    (
        r"system.slice/system-getty.slice/getty@tty1.service",
        "kind=service systemd.unit=getty@tty1.service systemd.slice=system-getty.slice",
    ),
    (
        "system.slice/boot-efi.mount",
        "kind=service systemd.unit=boot-efi.mount systemd.slice=system.slice",
    ),
    ("init.scope", "kind=scope systemd.unit=init.scope"),
    (
        "user.slice/user-1000.slice/session-2.scope",
        "kind=scope systemd.unit=session-2.scope systemd.slice=user-1000.slice user.id=1000",
    ),
    (
        r"user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal-4242.scope",
        "kind=scope systemd.unit=app-org.gnome.Terminal-4242.scope systemd.slice=app.slice user.id=1000",
    ),
    // A delegated unit's own groups belong to it.
    (
        "system.slice/web.service/worker",
        "kind=service systemd.unit=web.service systemd.slice=system.slice",
    ),
    (
        "_cpu.slice",
        "kind=slice systemd.unit=cpu.slice systemd.slice=cpu.slice",
    ),
    // Docker: cgroupfs, systemd, in a parent of one's own, and both mixed up
    ("docker/ID", "kind=docker container.id=ID"),
    ("docker", "kind=cgroup"),
    (
        "system.slice/docker-ID.scope",
        "kind=docker container.id=ID systemd.slice=system.slice",
    ),
    (
        "tenants.slice/tenants-acme.slice/docker-ID.scope",
        "kind=docker container.id=ID systemd.slice=tenants-acme.slice",
    ),
    ("tenant-acme/ID", "kind=container container.id=ID"),
    (
        "system.slice:docker:ID",
        "kind=docker container.id=ID systemd.slice=system.slice",
    ),
    // Docker inside Docker is the outer container's own affair.
    ("docker/ID/docker/ID", "kind=docker container.id=ID"),
    (
        "docker/ID/system.slice/cron.service",
        "kind=docker container.id=ID",
    ),
    ("docker/buildkit/ID", "kind=container container.id=ID"),
    (
        "system.slice/docker.service",
        "kind=service systemd.unit=docker.service systemd.slice=system.slice",
    ),
    // Not an id, so not a container
    ("docker/short", "kind=cgroup"),
    (
        "system.slice/docker-abc.scope",
        "kind=scope systemd.unit=docker-abc.scope systemd.slice=system.slice",
    ),
    // ECS and containerd's namespaces
    ("ecs/0123456789abcdef/ID", "kind=container container.id=ID"),
    ("default/ID", "kind=container container.id=ID"),
    (
        "user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-ID.scope",
        "kind=containerd container.id=ID systemd.slice=user.slice user.id=1000",
    ),
    // Podman
    (
        "machine.slice/libpod-ID.scope",
        "kind=podman container.id=ID systemd.slice=machine.slice",
    ),
    (
        "machine.slice/libpod-ID.scope/container",
        "kind=podman container.id=ID systemd.slice=machine.slice",
    ),
    ("libpod_parent/libpod-ID", "kind=podman container.id=ID"),
    (
        "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
        "kind=podman container.id=ID systemd.slice=user.slice user.id=1000",
    ),
    (
        "machine.slice/libpod-conmon-ID.scope",
        "kind=scope systemd.unit=libpod-conmon-ID.scope systemd.slice=machine.slice",
    ),
    // Kubernetes: systemd driver
    (
        "kubepods.slice",
        "kind=pods systemd.unit=kubepods.slice systemd.slice=kubepods.slice",
    ),
    (
        "kubepods.slice/kubepods-burstable.slice",
        "kind=pods k8s.qos=burstable systemd.unit=kubepods-burstable.slice systemd.slice=kubepods-burstable.slice",
    ),
    (
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_UNIT.slice",
        "kind=pod k8s.pod.uid=UID k8s.qos=burstable systemd.unit=kubepods-burstable-podUID_UNIT.slice systemd.slice=kubepods-burstable-podUID_UNIT.slice",
    ),
    (
        "kubepods.slice/kubepods-podUID_UNIT.slice/cri-containerd-ID.scope",
        "kind=containerd container.id=ID k8s.pod.uid=UID k8s.qos=guaranteed systemd.slice=kubepods-podUID_UNIT.slice",
    ),
    (
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_UNIT.slice/crio-ID.scope",
        "kind=cri-o container.id=ID k8s.pod.uid=UID k8s.qos=besteffort systemd.slice=kubepods-besteffort-podUID_UNIT.slice",
    ),
    (
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_UNIT.slice/docker-ID.scope",
        "kind=docker container.id=ID k8s.pod.uid=UID k8s.qos=besteffort systemd.slice=kubepods-besteffort-podUID_UNIT.slice",
    ),
    (
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podSTATIC.slice/cri-containerd-ID.scope",
        "kind=containerd container.id=ID k8s.pod.uid=STATIC k8s.qos=guaranteed systemd.slice=kubelet-kubepods-podSTATIC.slice",
    ),
    (
        "kubepods-burstable-podUID_UNIT.slice:cri-containerd:ID",
        "kind=containerd container.id=ID k8s.pod.uid=UID k8s.qos=burstable systemd.slice=kubepods-burstable-podUID_UNIT.slice",
    ),
    // Kubernetes: cgroupfs driver
    ("kubepods", "kind=pods"),
    (
        "kubepods/podUID",
        "kind=pod k8s.pod.uid=UID k8s.qos=guaranteed",
    ),
    (
        "kubepods/burstable/podUID",
        "kind=pod k8s.pod.uid=UID k8s.qos=burstable",
    ),
    (
        "kubepods/besteffort/podUID/ID",
        "kind=container container.id=ID k8s.pod.uid=UID k8s.qos=besteffort",
    ),
    (
        "kubepods/burstable/podUID/crio-ID",
        "kind=cri-o container.id=ID k8s.pod.uid=UID k8s.qos=burstable",
    ),
    (
        "kubelet/kubepods/burstable/podUID",
        "kind=pod k8s.pod.uid=UID k8s.qos=burstable",
    ),
    ("kubepods/burstable", "kind=pods k8s.qos=burstable"),
    // LXC, Proxmox
    ("lxc/web", "kind=lxc machine.name=web"),
    ("lxc.payload/web", "kind=lxc machine.name=web"),
    (
        "lxc.payload.web/system.slice/cron.service",
        "kind=lxc machine.name=web",
    ),
    ("lxc/101/ns", "kind=lxc machine.name=101"),
    ("lxc.monitor.web", "kind=cgroup"),
    (
        "qemu.slice/100.scope",
        "kind=proxmox machine.name=100 systemd.unit=100.scope systemd.slice=qemu.slice",
    ),
    // libvirt
    (
        r"machine.slice/machine-qemu\x2d1\x2dvm\x2da.scope",
        r"kind=libvirt machine.name=vm-a systemd.unit=machine-qemu\x2d1\x2dvm\x2da.scope systemd.slice=machine.slice",
    ),
    (
        r"machine.slice/machine-qemu\x2d12\x2ddb.scope/libvirt/vcpu0",
        r"kind=libvirt machine.name=db systemd.unit=machine-qemu\x2d12\x2ddb.scope systemd.slice=machine.slice",
    ),
    (
        r"machine.slice/machine-lxc\x2d7\x2dbox.scope",
        r"kind=libvirt machine.name=box systemd.unit=machine-lxc\x2d7\x2dbox.scope systemd.slice=machine.slice",
    ),
    (
        "machine/qemu-3-vm1.libvirt-qemu",
        "kind=libvirt machine.name=vm1",
    ),
    (
        "machine/vm1.libvirt-qemu/vcpu0",
        "kind=libvirt machine.name=vm1",
    ),
    // systemd-nspawn and other machines
    (
        "machine.slice/systemd-nspawn@build\\x2dbox.service/payload",
        "kind=nspawn machine.name=build-box systemd.unit=systemd-nspawn@build\\x2dbox.service systemd.slice=machine.slice",
    ),
    (
        "machine.slice/machine-debian.scope",
        "kind=machine machine.name=debian systemd.unit=machine-debian.scope systemd.slice=machine.slice",
    ),
    // Anybody's own
    ("batch/job-7", "kind=cgroup"),
    ("", "kind=cgroup"),
];

#[test]
fn paths_of_real_hosts_are_named_for_what_they_are() {
    for (path, expected) in TABLE {
        assert_eq!(labels(path), written_out(expected), "{path}");
    }
}

#[test]
fn a_pod_is_one_pod_under_both_drivers() {
    let by_systemd = Origin::of(&format!("kubepods.slice/kubepods-pod{UID_UNIT}.slice"));
    let by_cgroupfs = Origin::of(&format!("kubepods/pod{UID}"));
    assert_eq!(by_systemd.pod, by_cgroupfs.pod);
    assert_eq!(by_systemd.kind, by_cgroupfs.kind);
}

proptest::proptest! {
    #[test]
    fn no_path_is_too_odd(path in r"([a-z0-9_.:@\\/-]|kubepods|-pod|pod|machine-|\\x2d|é){0,20}") {
        let labels = Origin::of(&path).labels();
        proptest::prop_assert_eq!(labels[0].0.as_str(), "kind");
        proptest::prop_assert!(labels.iter().all(|(key, value)| !key.is_empty() && !value.is_empty()));
    }
}
