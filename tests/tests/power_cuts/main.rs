//! The plug of a machine pulled in the middle of sealing, ten times.
//!
//! The agent meters in a virtual machine with a kernel, an ext4 and a virtual disk of its own; the reconciler
//! stands outside and survives. After each cut the same disk boots again. Half of the cuts strike where a
//! failpoint stopped the agent, half while the disk, made slow, is at the writes of a seal. Afterwards both
//! halves, and the kernel's counters as the machine printed them until the last moment, are held against
//! each other.

mod checks;
mod life;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;
use tallystick_agent::identity::Identity;
use tallystick_common::ids::{Hash, Seq};
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};
use tallystick_tests::draw::Draw;
use tallystick_tests::halves::{self, holds_i1, holds_i2, text};
use tallystick_tests::poll;
use tallystick_tests::process::binary;
use tallystick_tests::sides::Sides;
use tallystick_tests::vm::{self, DiskWork, Image, Machine, Vm};

use checks::Sealed;
use life::{Clock, Life, after, seen};

const CUTS: usize = 10;
const GROUP: &str = "metered";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the slow disk: a seal takes a few.
const WRITES_A_SECOND: u32 = 5;

/// Where a cut strikes.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// Where this failpoint has stopped the agent at its N-th passing.
    At(&'static str, u64),
    /// After the first write of a seal and so many more are completed, on a slow disk.
    Writing(u64),
}

struct Run {
    sides: Sides,
    draw: Draw,
    folder: tempfile::TempDir,
    lives: Vec<Life>,
    /// Every segment that the reconciler was seen to hold.
    held: BTreeMap<Seq, Hash>,
}

impl Run {
    fn begin() -> Self {
        let draw = Draw::seeded("power cuts");
        let sides = Sides::prepare(&[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let run = Self {
            sides,
            draw,
            folder,
            lives: Vec::new(),
            held: BTreeMap::new(),
        };
        run.make_image();
        run.make_disk();
        run
    }

    fn make_image(&self) {
        let image = Image::new(include_str!("../../vm/power_cuts.sh")).unwrap();
        let agent = binary("tallystick-agent");
        image.program(agent, "tallystick-agent").unwrap();
        image.program("/bin/date", "bin/date").unwrap();
        let config = format!(
            "sample_seconds = 1\nseal_seconds = 1\ndata = \"/data/agent\"\n[cgroups]\ninclude = [\"{GROUP}\"]\n"
        );
        image.file("agent.toml", &config).unwrap();
        image.pack(self.folder.path()).unwrap();
    }

    /// The enrolled agent moves into the machine, from where its reconciler has another address.
    fn make_disk(&self) {
        let enrolment = self.sides.agent_data().join("identity/enrolment.json");
        let here = std::fs::read_to_string(&enrolment).unwrap();
        let there = here.replace("127.0.0.1:", &format!("{}:", vm::HOST));
        assert_ne!(here, there);
        std::fs::write(&enrolment, there).unwrap();
        let content = self.folder.path().join("content");
        std::fs::create_dir(&content).unwrap();
        std::fs::rename(self.sides.agent_data(), content.join("agent")).unwrap();
        vm::format(&self.disk(), 256, Some(&content)).unwrap();
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn boot(&self, parameters: &str) -> Vm {
        let machine = Vm::start(&Machine {
            initramfs: &self.folder.path().join("initramfs"),
            disk: &self.disk(),
            megabytes: 512,
            parameters,
        });
        machine.unwrap()
    }

    /// One life up to its cut.
    fn cut(&mut self, strike: Strike, away: bool) {
        self.set_reconciler(!away);
        let clock = Clock::default();
        let (vm, how, sealing) = match strike {
            Strike::At(name, pass) => self.struck_at(name, pass, &clock),
            Strike::Writing(writes) => self.writing(writes, &clock),
        };
        let cut_at = clock.now();
        let said = vm.cut().unwrap();
        let ended = matches!(strike, Strike::At(..));
        assert_eq!(
            said.contains("STRUCK"),
            ended,
            "the agent ends only where it is struck: {said}"
        );
        let mut life = Life::of(&said, how, cut_at);
        (life.away, life.sealing) = (away, sealing);
        assert!(life.seen.len() > 3, "{said}");
        for line in said.lines().filter(|line| line.contains("mended")) {
            println!("life {}: {line}", self.lives.len() + 1);
        }
        self.lives.push(life);
        self.note_held();
    }

    fn set_reconciler(&mut self, present: bool) {
        if let Some(reconciler) = self.sides.reconciler.take_if(|_| !present) {
            assert!(reconciler.terminate().unwrap().success());
        } else if present && self.sides.reconciler.is_none() {
            self.sides.start_reconciler(None).unwrap();
        }
    }

    fn struck_at(&self, name: &str, pass: u64, clock: &Clock) -> (Vm, String, bool) {
        let mut vm = self.boot(&format!("FAILPOINT={name}:{pass}"));
        let struck = vm.says(PATIENCE, |said| {
            clock.look(said);
            after(said, "STRUCK ")
        });
        assert_eq!(struck.unwrap(), "137", "{}", vm.said());
        let sealing = !name.starts_with("agent.receipt");
        (vm, format!("at {name}:{pass}"), sealing)
    }

    /// Waits until the disk has rested and is at work again, for so many writes.
    fn writing(&mut self, writes: u64, clock: &Clock) -> (Vm, String, bool) {
        let mut vm = self.boot("");
        let seals = 2 + self.draw.below(2);
        vm.says(PATIENCE, |said| {
            clock.look(said);
            let mut sealed = said.lines().filter_map(seen).map(|seen| seen.sealed);
            let first = sealed.next()?;
            sealed.any(|now| now >= first + seals).then_some(())
        })
        .unwrap();
        let end = Instant::now() + PATIENCE;
        let rest = until_at_work(&mut vm, end);
        let work = loop {
            let work = vm.disk_work().unwrap();
            if work.writes > rest.writes + writes {
                break work;
            }
            assert!(Instant::now() < end, "the disk does not go on writing");
            std::thread::sleep(Duration::from_millis(1));
        };
        clock.look(&vm.said());
        let (done, synced) = (work.writes - rest.writes, work.flushes - rest.flushes);
        let how = format!("writing: {done} writes, {synced} flushes after a rest");
        (vm, how, synced == 0)
    }

    /// The last life, to a good end, with all receipts; gives the kernel's last word.
    fn end_well(&mut self) -> u128 {
        self.set_reconciler(true);
        let said = self.boot("LAST=1").end(PATIENCE * 2).unwrap();
        for (key, value) in [("AGENT ", "0"), ("VERIFIED ", "0")] {
            assert_eq!(after(&said, key).as_deref(), Some(value), "{said}");
        }
        let life = Life::of(&said, "ended well".to_owned(), 0);
        self.lives.push(life);
        vm::copy_out(
            &self.disk(),
            "/agent",
            self.sides.agent_data().parent().unwrap(),
        )
        .unwrap();
        after(&said, "FINAL ").unwrap().parse().unwrap()
    }

    fn segments(&self) -> Vec<Value> {
        let api = self.sides.api().unwrap();
        api.all("/v1/nodes/metered/segments").unwrap()
    }

    /// All that the agent said to have a receipt for is held, and is as it was.
    fn note_held(&mut self) {
        if self.sides.reconciler.is_none() {
            return;
        }
        let segments = self.segments();
        let receipted = self.lives.iter().flat_map(|life| &life.seen);
        let receipted = receipted.filter_map(|seen| seen.receipted).max();
        assert!(
            receipted.is_none_or(|through| through < segments.len() as u64),
            "I2"
        );
        for segment in &segments {
            let seq = Seq(segment["seq"].as_u64().unwrap());
            let hash: Hash = text(segment, "hash").parse().unwrap();
            let known = self.held.insert(seq, hash);
            assert!(known.is_none_or(|known| known == hash), "I1: segment {seq}");
        }
    }
}

/// Slows the disk down in a rest between two seals, and waits for it to be at work again; gives what it had
/// done in all when it rested.
fn until_at_work(vm: &mut Vm, end: Instant) -> DiskWork {
    let (mut before, mut since) = (vm.disk_work().unwrap(), Instant::now());
    let mut slow = false;
    loop {
        assert!(Instant::now() < end, "the disk is never at rest");
        let now = vm.disk_work().unwrap();
        if now.writes > before.writes && slow {
            return before;
        }
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if !slow && since.elapsed() > Duration::from_millis(150) {
            vm.slow_disk(WRITES_A_SECOND).unwrap();
            slow = true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ten_power_cuts_in_the_middle_of_sealing_lose_nothing_sealed_and_bill_nothing_twice() {
    if !vm::available() {
        return;
    }
    let began = Timestamp::EPOCH.saturating_add(UNIX_EPOCH.elapsed().unwrap().into());
    let mut run = Run::begin();
    for (strike, away) in plan(&mut run.draw) {
        run.cut(strike, away);
    }
    assert_eq!(run.lives.len(), CUTS);
    let last_word = run.end_well();
    let status = run.sides.status().unwrap();
    assert_eq!((status.running, status.unreceipted), (false, 0));

    let listed = run.segments();
    holds_i1(&listed, status.next_seq);
    holds_i2(&listed, &run.held);
    let api = run.sides.api().unwrap();
    assert_eq!(api.all("/v1/refusals").unwrap(), [] as [Value; 0]);

    let identity = Identity::load(&run.sides.agent_data()).unwrap().unwrap();
    let stored = halves::stored(&run.sides);
    let report = halves::replayed(&identity, &stored);
    let measured = halves::measured(&report);
    poll::until(PATIENCE, "I3: usage is closing − opening", || {
        let billed = halves::billed(&run.sides, began.floor_to(QUARTER_HOUR_US));
        (billed.unwrap() == measured).then_some(())
    });

    let verified = |segment: SealedSegment| segment.verify(&identity.key_ring()).unwrap();
    let segments: Vec<VerifiedSegment> = stored.into_iter().map(verified).collect();
    let lives = checks::by_life(&run.lives, &segments);
    checks::nothing_sealed_was_lost(&run.lives, &lives);
    checks::the_kernel_bears_it_out(&run.lives, &lives);
    let last = lives.last().unwrap();
    assert_eq!(last.billed(), last_word, "ended well: to the microsecond");
    let gaps = checks::what_was_lost_is_shown(&run.lives, &lives);
    checks::the_first_page_names(&gaps, &api.get("/v1/overview").unwrap());
    let sealing = run.lives.iter().filter(|life| life.sealing).count();
    assert!(
        sealing * 2 > CUTS,
        "only {sealing} cuts struck while something was being sealed"
    );
    // A cut that loses nothing would show nothing.
    let cost = run.lives[1..].iter().filter(|life| !life.found_unsynced);
    let cost = cost.count();
    assert!(cost * 2 > CUTS, "only {cost} cuts lost what was not synced");
    let billed: u128 = lives.iter().map(Sealed::billed).sum();
    let key = (format!("cgroup/{GROUP}"), "cpu.time".to_owned());
    assert_eq!(measured[&key], billed, "I3: every life once");
    println!(
        "{} segments of {} lives in one chain; {sealing} cuts while sealing, {cost} lost an unsynced file; billed {billed} µs of the group's CPU",
        segments.len(),
        lives.len()
    );
    run.sides.reconciler.take().unwrap().terminate().unwrap();
}

/// Half at failpoints around the journal, half on a slow disk; some of each without a reconciler.
fn plan(draw: &mut Draw) -> Vec<(Strike, bool)> {
    let mut at = |name, first| Strike::At(name, first + draw.below(4));
    // Receipts and states are appended too.
    let mut plan = vec![
        (at("agent.journal.appended", 10), false),
        (at("agent.journal.appended", 8), true),
        (at("agent.journal.synced", 4), false),
        (at("agent.sled.written", 4), true),
        (at("agent.receipt.journaled", 4), false),
    ];
    let writing = |writes, away| (Strike::Writing(writes), away);
    plan.extend([
        writing(0, false),
        writing(0, true),
        writing(1, false),
        writing(1, true),
        writing(2, false),
    ]);
    draw.shuffle(&mut plan);
    plan
}
