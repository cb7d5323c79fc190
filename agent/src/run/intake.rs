//! The tasks that take in what applications report, and when they begin and end.

use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::meter::Meter;
use super::now;
use crate::config::Config;
use crate::intake::desk::Desk;
use crate::intake::scrape::{self, Troubles};
use crate::intake::server::{self, Server};
use crate::intake::{IntakeError, Request};

/// The tasks that take in what applications report, and the queue they fill.
#[derive(Default)]
pub(super) struct Intake {
    queue: Option<mpsc::Receiver<Request>>,
    tasks: JoinSet<()>,
    troubles: Troubles,
}

impl Intake {
    /// Opens the desk, listens, and asks the configured targets, unless that was done. Metering does not depend
    /// on it: what fails is tried again with the next seal.
    pub(super) fn begin(&mut self, config: &Config, meter: &mut Meter) {
        if !config.intake.enabled || meter.desk.is_some() {
            return;
        }
        let opened = self.open(config, meter).err();
        self.troubles
            .note("intake", opened.map(|error| error.to_string()));
    }

    fn open(&mut self, config: &Config, meter: &mut Meter) -> Result<(), IntakeError> {
        let runtime = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        let path = config.intake.listen_on(&config.data, runtime.as_deref());
        let (fill, queue) = mpsc::channel(server::QUEUE);
        let desk = Desk::open(&meter.intake, &config.intake, meter.counted, now())?;
        let server = Server::bind(&path, config, fill.clone())?;
        if meter.counted.is_none() {
            meter.station.set_batch(desk.counted());
        }
        meter.desk = Some(desk);
        self.tasks.spawn(server.serve());
        for scrape in &config.scrape {
            let (fill, troubles) = (fill.clone(), self.troubles.clone());
            self.tasks
                .spawn(scrape::run(scrape.clone(), fill, troubles, now));
        }
        self.queue = Some(queue);
        Ok(())
    }

    /// What waits to be counted, as soon as there is something.
    pub(super) async fn reports(&mut self) -> Vec<Request> {
        let mut reports = Vec::new();
        match &mut self.queue {
            Some(queue) => drop(queue.recv_many(&mut reports, server::QUEUE).await),
            None => std::future::pending().await,
        }
        if reports.is_empty() {
            // Every sender is gone.
            self.queue = None;
        }
        reports
    }

    /// Takes nothing more in: what is left. The socket's file is gone then.
    pub(super) async fn close(&mut self) -> Vec<Request> {
        self.tasks.shutdown().await;
        self.troubles = Troubles::default();
        let mut left = Vec::new();
        if let Some(mut queue) = self.queue.take() {
            queue.close();
            while let Ok(request) = queue.try_recv() {
                left.push(request);
            }
        }
        left
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        self.troubles.list()
    }
}
