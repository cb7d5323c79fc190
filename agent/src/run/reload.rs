//! SIGHUP: the configuration is read and checked, then put in force without a stop.
//!
//! What is wrong with it is said (log, status, service manager), and the old one stays in force.

use super::{Agent, RunError, Scrapes, Shipper, now, shipping};
use crate::config::{Config, IntakeSettings, Scrape, Selection};
use crate::sample::Sampler;
use crate::status::ReloadStatus;

/// What the intake goes by.
fn takes_in(config: &Config) -> (&IntakeSettings, &[Scrape], &Selection) {
    (&config.intake, &config.scrape, &config.cgroups)
}

impl Agent {
    /// Ships to where the configuration now says.
    async fn restart_shipping(&mut self) {
        let Some(meter) = &self.meter else {
            return;
        };
        let buffer = meter.station.buffer().clone();
        let shipping = shipping(&self.identity, &self.config, self.in_force.subscribe());
        let before = std::mem::replace(&mut self.shipper, Shipper::start(shipping, buffer));
        before.stop().await;
    }

    /// Reads, checks, and puts in force.
    pub(super) async fn reload(&mut self) -> Result<(), RunError> {
        self.service.notifier.reloading();
        let refused = match self.reread() {
            Ok(own) => self.put_in_force(own).await?.err(),
            Err(why) => Some(why),
        };
        match &refused {
            None => tracing::info!("reloaded"),
            Some(why) => {
                tracing::error!(%why, "not reloaded; the configuration before stays in force");
            }
        }
        self.figures.send_modify(|figures| match refused {
            None => figures.reloads += 1,
            Some(_) => figures.reloads_refused += 1,
        });
        self.status.reload = Some(ReloadStatus { at: now(), refused });
        self.publish();
        self.service.notifier.ready();
        Ok(())
    }

    fn reread(&self) -> Result<Config, String> {
        let config = (self.service.reread)().map_err(|error| error.to_string())?;
        let problems: Vec<String> = config.check().iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        if config.data != self.config.data {
            return Err(format!(
                "data: {} is not {}, where this agent works; restart it to move",
                config.data.display(),
                self.config.data.display()
            ));
        }
        Ok(config)
    }

    /// The outer error ends the agent, the inner one leaves the configuration as it is.
    pub(super) async fn adopt(&mut self, config: Config) -> Result<Result<(), String>, RunError> {
        if config == self.config {
            return Ok(Ok(()));
        }
        let sampler = match Sampler::new(&config) {
            Ok(sampler) => sampler,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if config.metrics != self.config.metrics {
            match Scrapes::start(&config, &self.figures).await {
                Ok(scrapes) => self.scrapes = scrapes,
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        // A header names the one configuration under which all in it was measured.
        self.meter(true).await?;
        if let Some(meter) = &mut self.meter {
            meter.sampler = sampler;
            let key = self.identity.signing_key();
            let enrolled = self.identity.enrolment.record.at;
            meter.station.reconfigure(config.accrual(&key, enrolled));
        }
        self.groups = self.watch_groups();
        let elsewhere = config.addresses != self.config.addresses;
        let reported = takes_in(&config) != takes_in(&self.config);
        self.config = config;
        if reported {
            self.restart_intake().await?;
        }
        if elsewhere {
            self.restart_shipping().await;
        }
        Ok(Ok(()))
    }
}
