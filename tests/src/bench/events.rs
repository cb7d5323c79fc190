//! What people use otherwise: a table of events in PostgreSQL with a unique idempotency key, filled in batches
//! by `INSERT … ON CONFLICT DO NOTHING` over two connections.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::JoinSet;

use super::durable;

/// Events in a statement, which is a transaction.
const BATCH: usize = 5_000;
const CONNECTIONS: usize = 2;

const TABLE: &str = "CREATE TABLE events (idempotency_key TEXT NOT NULL PRIMARY KEY, node TEXT NOT NULL, \
                     workload TEXT NOT NULL, meter TEXT NOT NULL, begins BIGINT NOT NULL, ends BIGINT NOT NULL, \
                     quantity BIGINT NOT NULL)";
const INSERT: &str = "INSERT INTO events SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], \
                      $5::BIGINT[], $6::BIGINT[], $7::BIGINT[]) ON CONFLICT (idempotency_key) DO NOTHING";

/// How long so many events of a hundred nodes take to be durable.
///
/// # Errors
/// When the database fails, or does not hold them all in the end.
pub async fn insert(events: usize) -> anyhow::Result<Duration> {
    let (_, options) = durable::database("events").await?;
    let mut connection = options.connect().await?;
    sqlx::query(TABLE).execute(&mut connection).await?;
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..CONNECTIONS {
        writers.spawn(write(options.clone(), writer, events));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let took = began.elapsed();
    let held: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM events")
        .fetch_one(&mut connection)
        .await?;
    ensure!(held == i64::try_from(events)?, "{held} of {events} events");
    connection.close().await?;
    Ok(took)
}

async fn write(options: PgConnectOptions, writer: usize, events: usize) -> anyhow::Result<()> {
    let mut connection = options.connect().await?;
    let own = (0..events.div_ceil(BATCH)).filter(|batch| batch % CONNECTIONS == writer);
    for batch in own {
        let first = batch * BATCH;
        insert_batch(&mut connection, first..events.min(first + BATCH)).await?;
    }
    Ok(connection.close().await?)
}

async fn insert_batch(
    connection: &mut PgConnection,
    events: std::ops::Range<usize>,
) -> anyhow::Result<()> {
    const METERS: [&str; 4] = ["cpu.time", "memory.usage", "disk.read", "network.rx"];
    let text = |of: &dyn Fn(usize) -> String| events.clone().map(of).collect::<Vec<_>>();
    let number = |of: &dyn Fn(i64) -> i64| {
        events
            .clone()
            .map(|event| of(i64::try_from(event).unwrap_or(i64::MAX)))
            .collect::<Vec<_>>()
    };
    sqlx::query(INSERT)
        .bind(text(&|event| {
            format!("node-{:04}/{:032x}", event % 100, event)
        }))
        .bind(text(&|event| format!("node-{:04}", event % 100)))
        .bind(text(&|event| {
            format!("cgroup/customer-{}.slice", event % 20)
        }))
        .bind(text(&|event| METERS[event % METERS.len()].to_owned()))
        .bind(number(&|event| event * 12_000_000))
        .bind(number(&|event| (event + 1) * 12_000_000))
        .bind(number(&|event| event * 7919 % 1_000_000))
        .execute(connection)
        .await?;
    Ok(())
}
