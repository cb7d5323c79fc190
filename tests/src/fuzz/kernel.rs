//! Kernel files, paths of control groups, records of container runtimes.

use tallystick_agent::sample::decoders;

use super::{Input, Target, texts};

pub(super) const KERNEL: Target = Target {
    name: "kernel",
    max_bytes: 1024,
    run,
    seeds,
    words: &[
        "usage_usec ",
        "inactive_file ",
        "MemAvailable: ",
        " kB",
        "cpu ",
        "Read ",
        "Write ",
        "rbytes=",
        "wios=",
        "8:0 ",
        " - cgroup2 ",
        " - cgroup ",
        "cpuacct",
        ".slice",
        ".service",
        ".scope",
        "kubepods",
        "docker-",
        "crio-",
        "\\x2d",
        "machine-",
        "libpod-",
        "pod",
        "lxc.payload.",
        "/user.slice/user-1000.slice",
    ],
};

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => drop(decoders::kernel(&String::from_utf8_lossy(input.0))),
        1 => drop(decoders::origin(&String::from_utf8_lossy(input.0))),
        _ => drop(decoders::record(input.0)),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let id = "3c2d9c1e7b8f4a5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
    let mut seeds = texts(&[
        "0cpu  10 20 30 40 50 60 70 80 0 0\ncpu0 1 2 3\nMemAvailable:   123 kB\nusage_usec 77\ninactive_file 5\n",
        "0   8       0 sda 10 0 20 0 30 0 40 0 0 0 0\n 259 0 nvme0n1 1 2 3 4 5 6 7 8 9 10 11\n",
        "08:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        "08:0 Read 5\n8:0 Write 6\n8:0 Total 11\nTotal 11\n",
        "00.1 0.2 0.3 1/234 5678\n",
        "036 25 0:30 / /sys/fs/cgroup\\040x rw,nosuid - cgroup2 cgroup2 rw\n37 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
        "1system.slice/ssh.service",
        "1user.slice/user-1000.slice/user@1000.service/app.slice/app-foo-12.scope",
        "1machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt",
        "1kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f2ab9d1_6e1c_4a52_9d4e_1f5a3c7b8d90.slice",
        "2[{\"id\":\"a\",\"names\":[\"x\"],\"metadata\":\"{\\\"image-name\\\":\\\"i\\\",\\\"name\\\":\\\"n\\\"}\"}]",
        "2{\"Name\":\"/web\",\"Config\":{\"Image\":\"nginx\",\"Labels\":{\"a\":\"b\"}},\"annotations\":{\"io.kubernetes.cri.container-name\":\"c\"}}",
    ]);
    for path in ["docker", "kubepods/pod0f2ab9d1-6e1c-4a52-9d4e-1f5a3c7b8d90"] {
        seeds.push(format!("1{path}/{id}").into_bytes());
    }
    seeds.push(format!("1system.slice/docker-{id}.scope").into_bytes());
    seeds
}
