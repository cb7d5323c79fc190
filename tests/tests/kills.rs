//! `kill -9` of agent, reconciler and both, fifty times in one run, under steady metering.
//!
//! First every failpoint of the source once, then seeded random moments. Afterwards the bill is held
//! against the registers, the sealed bytes and the kernel's own counter.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tallystick_agent::buffer::{Buffer, Settings};
use tallystick_agent::identity::Identity;
use tallystick_agent::status::LinkStatus;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::draw::Draw;
use tallystick_tests::halves::{self, Sums, add, holds_i1, holds_i2, number, text};
use tallystick_tests::poll;
use tallystick_tests::process::Process;
use tallystick_tests::sides::{Sides, failpoints};

const KILLS: usize = 50;
/// Of the random ones, how many strike while a backlog is on its way, at least.
const WITH_BACKLOG: usize = 18;
const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "customer";
const REPORT: [&str; 4] = ["requests", "1", "--workload", "kills"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    Reconciler,
    Both,
}

/// When a random kill strikes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many milliseconds after both run.
    AnyTime(u64),
    /// So many milliseconds after a seal.
    AfterSeal(u64),
    /// So many milliseconds after a reconciler that was away is back.
    CatchingUp(u64),
}

struct Kill {
    who: Who,
    how: String,
    /// Sealed segments without a receipt when it struck.
    unreceipted: u64,
}

struct Run {
    sides: Sides,
    draw: Draw,
    ended_month: String,
    kills: Vec<Kill>,
    /// Every receipt that the agent was seen to hold.
    receipts: BTreeMap<Seq, Hash>,
    stream: StreamId,
}

impl Run {
    fn begin(sides: Sides, draw: Draw, ended_month: String) -> Self {
        let stream = poll::until(PATIENCE, "the first seal", || {
            sides.journal().ok().filter(|peek| peek.head.next.0 > 0)
        })
        .stream;
        Self {
            sides,
            draw,
            ended_month,
            kills: Vec::new(),
            receipts: BTreeMap::new(),
            stream,
        }
    }

    /// Notes a kill, by what the journal says at once after it.
    fn struck(&mut self, who: Who, how: String) {
        let journal = self.sides.journal().unwrap();
        assert_eq!(journal.stream, self.stream, "{how} ended the stream");
        if let Some(receipt) = journal.last_receipt {
            let known = self.receipts.insert(receipt.through, receipt.hash);
            assert!(known.is_none_or(|known| known == receipt.hash));
        }
        self.kills.push(Kill {
            who,
            how,
            unreceipted: journal.unreceipted,
        });
    }

    fn start_what_is_down(&mut self) {
        if self.sides.reconciler.is_none() {
            self.sides.start_reconciler(None).unwrap();
        }
        if self.sides.agent.is_none() {
            self.sides.start_agent(None).unwrap();
        }
    }

    /// The process dies at the failpoint by itself; anything else is a failure.
    fn at_failpoint(&mut self, name: &str) {
        let once = ["agent.journal.rotated", "reconciler.invoice.numbered"];
        let pass = if once.contains(&name) {
            1
        } else {
            1 + self.draw.below(3)
        };
        let spec = format!("{name}:{pass}");
        let agent = name.starts_with("agent.");
        if name == "agent.journal.rotated" {
            self.fill_journal();
        }
        let mut process = if agent {
            self.sides.start_agent(Some(&spec)).unwrap();
            self.sides.agent.take().unwrap()
        } else {
            self.sides.start_reconciler(Some(&spec)).unwrap();
            self.sides.reconciler.take().unwrap()
        };
        let order =
            json!({ "account": ACCOUNT, "period": self.ended_month, "accept_gaps": "a test" });
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = process.ended().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < end,
                "{spec} was not passed; were the binaries built with failpoints (`cargo build --workspace`)? {}",
                process.stderr()
            );
            if name == "reconciler.invoice.numbered" {
                // Until it listens, and as it dies, this is not answered.
                let _ = self
                    .sides
                    .api()
                    .unwrap()
                    .ask("POST", "/v1/invoices", Some(&order));
            }
            if name.starts_with("agent.intake.") {
                // As above.
                let _ = self.sides.report(&REPORT).output();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let said = process.stderr();
        assert_eq!(status.signal(), Some(9), "{spec}: {status}: {said}");
        assert!(said.contains(&format!("failpoint {name}")), "{said}");
        let who = if agent { Who::Agent } else { Who::Reconciler };
        self.struck(who, format!("failpoint {spec}"));
    }

    /// Brings the journal of a dead agent close to where it goes on in a new file.
    fn fill_journal(&mut self) {
        let settings = Settings::default();
        let rotate_bytes = settings.rotate_bytes;
        let (mut buffer, recovered) =
            Buffer::open(&self.sides.buffer(), settings, StreamId([0xff; 16])).unwrap();
        assert_eq!(recovered.stream, self.stream);
        let state = recovered.state.expect("registers are open");
        let newest = || {
            let files = std::fs::read_dir(self.sides.buffer().join("journal")).unwrap();
            let newest = files.map(|file| file.unwrap().path()).max().unwrap();
            newest.metadata().unwrap().len()
        };
        let enough = rotate_bytes - state.len() as u64 - 16 * 1024;
        while newest() < enough {
            let size = (enough - newest()).min(256 * 1024);
            let noise: Vec<u8> = (0..size).map(|_| self.draw.below(256) as u8).collect();
            buffer.save_state(&noise).unwrap();
        }
        buffer.save_state(&state).unwrap();
    }

    fn at_random(&mut self, who: Who, moment: Moment) {
        let how = match moment {
            Moment::AnyTime(after_ms) => {
                self.start_what_is_down();
                sleep_ms(after_ms);
                format!("random, {after_ms} ms after both ran")
            }
            Moment::AfterSeal(after_ms) => {
                self.start_what_is_down();
                self.wait_for_seals(1);
                sleep_ms(after_ms);
                format!("random, {after_ms} ms after a seal")
            }
            Moment::CatchingUp(after_ms) => {
                if let Some(reconciler) = self.sides.reconciler.take() {
                    assert!(reconciler.terminate().unwrap().success());
                }
                if self.sides.agent.is_none() {
                    self.sides.start_agent(None).unwrap();
                }
                let backlog = 1 + self.draw.below(3);
                self.wait_for_seals(backlog);
                self.start_what_is_down();
                sleep_ms(after_ms);
                format!(
                    "random, {after_ms} ms after it was back from an absence of {backlog} segments"
                )
            }
        };
        if who != Who::Agent {
            self.sides.reconciler.take().unwrap().kill().unwrap();
        }
        if who != Who::Reconciler {
            self.sides.agent.take().unwrap().kill().unwrap();
        }
        self.struck(who, how);
    }

    fn wait_for_seals(&self, seals: u64) {
        let from = self.sides.journal().unwrap().head.next.0;
        poll::until(PATIENCE, "a seal", || {
            let next = self.sides.journal().ok()?.head.next.0;
            (next >= from + seals).then_some(())
        });
    }

    fn report(&self) {
        println!("\n{:>3}  {:10}  {:>11}  how", "no.", "who", "in flight");
        for (number, kill) in self.kills.iter().enumerate() {
            let who = format!("{:?}", kill.who).to_lowercase();
            let in_flight = match kill.unreceipted {
                0 => "-".to_owned(),
                1 => "1 segment".to_owned(),
                many => format!("{many} segments"),
            };
            println!("{:>3}  {who:10}  {in_flight:>11}  {}", number + 1, kill.how);
        }
        let in_flight = self.in_flight();
        println!(
            "{} kills, {in_flight} with work in flight\n",
            self.kills.len()
        );
    }

    fn in_flight(&self) -> usize {
        self.kills
            .iter()
            .filter(|kill| kill.unreceipted > 0)
            .count()
    }
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// What is left for chance: who and when, shuffled.
fn random_kills(draw: &mut Draw, count: usize) -> Vec<(Who, Moment)> {
    let mut kills: Vec<(Who, Moment)> = (0..count)
        .map(|place| {
            let who = [Who::Agent, Who::Reconciler, Who::Both][place % 3];
            let moment = match place {
                _ if place < WITH_BACKLOG => Moment::CatchingUp(draw.below(400)),
                _ if place % 2 == 0 => Moment::AfterSeal(draw.below(12)),
                _ => Moment::AnyTime(draw.below(2000)),
            };
            (who, moment)
        })
        .collect();
    draw.shuffle(&mut kills);
    kills
}

fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::EPOCH.saturating_add(since.into())
}

/// Lets everything arrive and stops the agent in good order.
fn settle(run: &mut Run) {
    let began = now();
    run.start_what_is_down();
    poll::until(PATIENCE, "all receipts", || {
        let status = run.sides.status().ok()?;
        // Not what an agent that was killed had said.
        let fresh = status.at.is_some_and(|at| at > began);
        let connected = fresh && matches!(status.link, LinkStatus::Connected { .. });
        let unreceipted = run.sides.journal().ok()?.unreceipted;
        // A receipt is journaled with the segment after it.
        (connected && unreceipted <= 1).then_some(())
    });
    let agent = run.sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
}

#[test]
fn fifty_kills_lose_nothing_and_bill_nothing_twice() {
    let mut draw = Draw::seeded("kills");
    let began = now().floor_to(QUARTER_HOUR_US);
    let name = Cgroup::name_of("kills");
    let mut sides = Sides::prepare(&[&name]).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let allowed = format!("[intake]\nreport_for_others = [{uid}]\n");
    sides.configure(&allowed).unwrap();
    let month = began.to_string()[..7].to_owned();
    let ended_month = sides.subscribe(ACCOUNT, &month).unwrap();
    let mut names = failpoints().unwrap();
    // A period with a difference is needed for it: `corrections` is killed there.
    names.retain(|name| name != "reconciler.correction.numbered");
    let random = random_kills(&mut draw, KILLS.saturating_sub(names.len()));
    // Born after the agent's first sample, so all that it ever uses is billed.
    sides.start_agent(None).unwrap();
    let mut run = Run::begin(sides, draw, ended_month);
    let cgroup = Cgroup::make("kills");
    let busy: Option<Process> = cgroup.as_ref().map(|cgroup| cgroup.keep_busy().unwrap());

    let (of_agent, of_reconciler): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.starts_with("agent."));
    assert!(of_agent.len() >= 5 && of_reconciler.len() >= 5, "{names:?}");
    run.at_random(Who::Agent, Moment::AnyTime(1500));
    for name in of_agent {
        run.at_failpoint(name);
    }
    run.at_random(Who::Reconciler, Moment::AfterSeal(1));
    for name in of_reconciler {
        run.at_failpoint(name);
    }
    for (who, moment) in random.into_iter().skip(2) {
        // At least half have to strike with work in flight.
        let behind = run.in_flight() * 2 <= run.kills.len();
        let soon = Moment::CatchingUp(run.draw.below(50));
        run.at_random(who, if behind { soon } else { moment });
    }
    run.report();

    drop(busy);
    if let Some(cgroup) = &cgroup {
        // What its last process used on its way out belongs on the bill, so it has to be out.
        poll::until(PATIENCE, "the end of all use", || {
            cgroup.is_empty().then_some(())
        });
    }
    settle(&mut run);
    assert!(run.kills.len() >= KILLS);
    assert!(
        run.in_flight() * 2 >= run.kills.len(),
        "too few struck with work in flight"
    );
    let sides = &run.sides;
    let status = sides.status().unwrap();
    assert_eq!(
        (status.running, status.unreceipted, status.stream),
        (false, 0, Some(run.stream))
    );

    let api = sides.api().unwrap();
    let segments = api.all("/v1/nodes/metered/segments").unwrap();
    holds_i1(&segments, status.next_seq);
    holds_i2(&segments, &run.receipts);
    assert_eq!(api.all("/v1/refusals").unwrap(), [] as [Value; 0]);

    let mut registers = Sums::new();
    for register in &status.registers {
        let reading = register.reading.parse().unwrap();
        add(
            &mut registers,
            register.workload.as_str(),
            register.meter,
            reading,
        );
    }
    let identity = Identity::load(&sides.agent_data()).unwrap().unwrap();
    let sealed = halves::replayed(&identity, &halves::stored(sides));
    assert_eq!(sealed.segments, status.next_seq.0);
    let measured = halves::measured(&sealed);
    let usage = poll::until(PATIENCE, "usage of all that is admitted", || {
        let billed = halves::billed(sides, began).unwrap();
        (billed == measured).then_some(billed).or_else(|| {
            println!("usage is not what was sealed yet");
            None
        })
    });
    for (key, closing) in &measured {
        assert_eq!(
            registers.get(key),
            Some(closing),
            "I3: {key:?}, agent's reading and sealed bytes"
        );
        assert_eq!(
            usage.get(key),
            Some(closing),
            "I3: {key:?}, billed and closing − opening"
        );
    }
    assert_eq!(usage.len(), registers.len());
    println!(
        "{} registers, {} segments: billed = closing − opening",
        usage.len(),
        segments.len()
    );
    let draft = api.get(&format!("/v1/accounts/{ACCOUNT}/draft")).unwrap();
    let differing = &draft["statement"]["discrepancies"];
    assert_eq!(differing, &Value::Array(Vec::new()), "I3 when invoicing");
    let lines = draft["statement"]["lines"].as_array().unwrap();
    let billed_cpu: u128 = lines.iter().map(|line| number(line, "quantity")).sum();
    let cpu = |workload: &str| {
        usage
            .get(&(workload.to_owned(), "cpu.time".to_owned()))
            .copied()
    };
    if let Some(cgroup) = &cgroup {
        let workload = cgroup.workload();
        assert_eq!(
            cpu(&workload),
            Some(cgroup.cpu_time()),
            "the kernel's own counter"
        );
        assert_eq!(billed_cpu, cgroup.cpu_time() + cpu("host/other").unwrap());
    }
    numbers_have_no_hole(sides, &run.ended_month);
    run.sides.reconciler.take().unwrap().terminate().unwrap();
}

/// The reconciler was killed with a number taken; what is asked again after that has no hole before it.
fn numbers_have_no_hole(sides: &Sides, month: &str) {
    let api = sides.api().unwrap();
    let order = json!({ "account": ACCOUNT, "period": month, "accept_gaps": "a test" });
    // Refused until the rollups hold all that is admitted.
    let issued = poll::until(PATIENCE, "the invoice", || {
        let answer = api.ask("POST", "/v1/invoices", Some(&order)).unwrap();
        (answer.status == 201).then(|| answer.json())
    });
    assert!(
        text(&issued["invoice"], "number").ends_with("-000001"),
        "I10: {issued}"
    );
    let again = api.post("/v1/invoices", &order).unwrap();
    assert_eq!(again["already_issued"], true);
    assert_eq!(again["invoice"], issued["invoice"]);
    assert_eq!(api.all("/v1/invoices").unwrap().len(), 1);
}
