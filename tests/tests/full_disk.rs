//! A disk that fills up and one that turns read-only, under the real agent on a real file system.
//!
//! Needs root for a loop device; says so and passes where it may not have one.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tallystick_agent::status::Status;
use tallystick_tests::poll;
use tallystick_tests::process::binary;
use tallystick_tests::sides::Sides;

const PATIENCE: Duration = Duration::from_secs(60);

/// A small ext4 of its own, mounted where the agent keeps its data.
struct Disk {
    at: PathBuf,
    _image: tempfile::NamedTempFile,
}

impl Disk {
    /// Takes the place of what is at `at`, with the same files in it.
    fn under(at: &Path, megabytes: u64) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        let kept = tempfile::tempdir().unwrap();
        run(
            "cp",
            &["-a", &format!("{}/.", at.display()), &text(kept.path())],
        )?;
        run("mkfs.ext4", &["-q", "-m", "0", &text(image.path())])?;
        let mounted = run(
            "mount",
            &[
                "-o",
                "loop,errors=remount-ro",
                &text(image.path()),
                &text(at),
            ],
        );
        if mounted.is_none() {
            eprintln!("skipped: no loop device can be mounted here");
            return None;
        }
        run(
            "cp",
            &["-a", &format!("{}/.", kept.path().display()), &text(at)],
        )?;
        // What the agent did not write is none of what is tried here.
        run("sync", &["-f", &text(at)])?;
        Some(Self {
            at: at.to_owned(),
            _image: image,
        })
    }

    /// Writes until nothing goes any more.
    fn fill(&self, ballast: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.at.join(ballast))
            .unwrap();
        for size in [1 << 16, 1 << 12, 1 << 8] {
            while file.write_all(&vec![0x55; size]).is_ok() {}
        }
    }

    fn source(&self) -> String {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mine = |line: &&str| line.split(' ').nth(1) == self.at.to_str();
        let line = mounts.lines().find(mine).unwrap();
        line.split(' ').next().unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Option<()> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success().then_some(())
}

/// What the agent says of itself, whether or not it can replace its status.
fn sealed(sides: &Sides) -> u64 {
    sides.journal().unwrap().head.next.0
}

fn status(sides: &Sides, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let status = sides.status();
        match status {
            Ok(status) if fits(&status) => return status,
            status => {
                let said = || sides.agent.as_ref().map(|agent| agent.stderr());
                let late = std::time::Instant::now() > end;
                assert!(!late, "{what} did not come: {status:?}\n{:?}", said());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn verifies(sides: &Sides) {
    let verified = Command::new(binary("tallystick-agent"))
        .arg("--data")
        .arg(sides.agent_data())
        .args(["buffer", "verify"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}

/// What was billed of the host's CPU time is what its register stands at.
fn bill_is_the_register(sides: &Sides) {
    let registers = sides.status().unwrap().registers;
    let host = |workload: &str, meter: &str| {
        let found = registers.iter().find(|register| {
            register.workload.as_str() == workload && register.meter.name() == meter
        });
        found.unwrap().reading.clone()
    };
    let api = sides.api().unwrap();
    for (workload, meter) in [("host", "cpu.time"), ("host/other", "cpu.time")] {
        let expected = host(workload, meter);
        let billed = || {
            let from = "2020-01-01T00:00:00Z";
            let usage = api.all(&format!("/v1/usage?from={from}")).ok()?;
            let quantities = usage
                .iter()
                .filter(|row| row["workload"] == workload && row["meter"] == meter)
                .filter_map(|row| row["quantity"].as_str()?.parse::<u128>().ok());
            (quantities.sum::<u128>().to_string() == expected).then_some(())
        };
        poll::until(
            PATIENCE,
            "usage that is what the register stands at",
            billed,
        );
    }
}

/// One more, under this id.
fn report(sides: &Sides, id: &str) -> Result<(), String> {
    let arguments = ["requests", "1", "--workload", "w", "--id", id];
    let output = sides.report(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

fn reported(sides: &Sides) -> u128 {
    let usage = sides
        .api()
        .unwrap()
        .all("/v1/usage?from=2020-01-01T00:00:00Z");
    let rows = usage.unwrap();
    let own = rows
        .iter()
        .filter(|row| row["workload"] == "app/w/requests");
    own.map(|row| row["quantity"].as_str().unwrap().parse::<u128>().unwrap())
        .sum()
}

#[test]
fn metering_goes_on_over_a_full_disk_and_everything_arrives_when_there_is_room() {
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    let Some(disk) = Disk::under(&sides.agent_data(), 48) else {
        return;
    };
    let uid = rustix::process::geteuid().as_raw();
    let more = format!("[buffer]\nlimit_bytes = 16777216\n[intake]\nreport_for_others = [{uid}]\n");
    sides.configure(&more).unwrap();
    // The reconciler is away: nothing frees the disk.
    let reconciler = sides.reconciler.take().unwrap();
    assert!(reconciler.terminate().unwrap().success());
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "the first seals", || {
        (sides.journal().ok()?.head.next.0 >= 2).then_some(())
    });
    assert_eq!(report(&sides, "before"), Ok(()));

    disk.fill("ballast");
    let before = sealed(&sides);
    poll::until(PATIENCE, "seals into the reserve", || {
        (sealed(&sides) >= before + 3).then_some(())
    });
    let told = status(&sides, "a status that tells of the reserve", |status| {
        status.in_reserve
    });
    assert!(told.running);
    // The reserve is for what cannot be told again.
    let refused = report(&sides, "full").unwrap_err();
    assert!(refused.contains("the disk is full"), "{refused}");

    // Somebody takes whatever the agent gives back, until nothing is left.
    poll::until(
        PATIENCE,
        "an agent that keeps in memory what it meters",
        || {
            disk.fill("more");
            let said = sides.agent.as_ref().unwrap().stderr();
            said.contains("the disk is full; metering goes on in memory")
                .then_some(())
        },
    );
    let stuck = sealed(&sides);
    std::thread::sleep(Duration::from_secs(3));
    assert!(sealed(&sides) <= stuck + 1, "nothing can be sealed");
    assert!(report(&sides, "full").is_err());

    fs::remove_file(disk.at.join("ballast")).unwrap();
    fs::remove_file(disk.at.join("more")).unwrap();
    sides.start_reconciler(None).unwrap();
    let settled = status(
        &sides,
        "everything receipted and the reserve whole again",
        |status| status.next_seq.0 > stuck + 20 && status.unreceipted <= 1 && !status.in_reserve,
    );
    assert!(!settled.journal_alone, "sled is in order again");
    assert_eq!(report(&sides, "full"), Ok(()), "it was not counted before");
    assert_eq!(report(&sides, "before"), Ok(()));
    let agent = sides.agent.take().unwrap();
    assert!(agent.stderr().contains("sealing goes on into the reserve"));
    assert!(
        agent.terminate().unwrap().success(),
        "it never had to be restarted"
    );
    verifies(&sides);
    bill_is_the_register(&sides);
    poll::until(PATIENCE, "both reports on the bill", || {
        (reported(&sides) == 2).then_some(())
    });
}

#[test]
fn a_disk_that_turns_read_only_stops_no_metering_and_costs_nothing_that_was_sealed() {
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    let Some(disk) = Disk::under(&sides.agent_data(), 48) else {
        return;
    };
    sides
        .configure("[buffer]\nlimit_bytes = 16777216\n")
        .unwrap();
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "the first seals", || {
        (sides.journal().ok()?.head.next.0 >= 2).then_some(())
    });
    let source = disk.source();
    let device = source.rsplit('/').next().unwrap();
    let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
    if fs::write(trigger, "1").is_err() {
        eprintln!("skipped: this kernel does not let an error be provoked");
        return;
    }
    // The sync that was under way, if one was, tells of the error itself.
    let told = ["Read-only file system", "Input/output error"];
    poll::until(PATIENCE, "an agent that tells of it", || {
        let said = sides.agent.as_ref().unwrap().stderr();
        told.iter().any(|error| said.contains(error)).then_some(())
    });
    let stuck = sealed(&sides);
    assert!(
        sides.agent.as_mut().unwrap().ended().unwrap().is_none(),
        "it goes on"
    );
    let agent = sides.agent.take().unwrap();
    agent.terminate().unwrap();

    // What an operator does: check the file system, mount it again, start the agent.
    let umounted = run("umount", &[&text(&disk.at)]);
    assert!(umounted.is_some());
    let image = text(disk._image.path());
    // Exit code 1: errors were corrected.
    let _ = Command::new("fsck.ext4").args(["-fy", &image]).output();
    run("mount", &["-o", "loop", &image, &text(&disk.at)]).unwrap();
    sides.start_agent(None).unwrap();
    let settled = status(&sides, "receipts for what came after", |status| {
        status.next_seq.0 > stuck + 2 && status.unreceipted <= 1
    });
    assert!(settled.next_seq.0 > stuck);
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
    verifies(&sides);
    bill_is_the_register(&sides);
}
