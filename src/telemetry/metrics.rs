//! `GET /metrics` for Prometheus and `GET /health` for people and probes.
//!
//! Library crates count in plain atomics; here a closure per metric reads them when somebody asks.
//!
//! *Invariant:* a metric is exposed under exactly its registered name. The format in use gives every
//! counter the suffix `_total`, so a counter whose name lacks it is exposed with the type `unknown`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SUFFIX: &str = "_total";

/// One value of a metric with the labels that tell it from the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Number,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Count(u64),
    Real(f64),
}

impl Sample {
    /// A value without labels.
    pub fn new(value: f64) -> Self {
        Self { labels: Vec::new(), value: Number::Real(value) }
    }

    /// A whole number without labels.
    pub fn count(count: u64) -> Self {
        Self { labels: Vec::new(), value: Number::Count(count) }
    }

    /// The same with one label more.
    pub fn label(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.labels.push((name, value.to_string()));
        self
    }
}

/// All metrics of a daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that only grows. `read` is called at each scrape: it must be quick and not block.
    pub fn counter<F>(&mut self, name: &'static str, help: &'static str, read: F)
    where
        F: Fn() -> Vec<Sample> + Send + Sync + 'static,
    {
        let (name, kind) = match name.strip_suffix(SUFFIX) {
            Some(stem) => (stem, MetricType::Counter),
            None => (name, MetricType::Unknown),
        };
        self.add(Family { name, help, kind, read });
    }

    /// Adds a value that goes up and down. `read` is called at each scrape.
    pub fn gauge<F>(&mut self, name: &'static str, help: &'static str, read: F)
    where
        F: Fn() -> Vec<Sample> + Send + Sync + 'static,
    {
        self.add(Family { name, help, kind: MetricType::Gauge, read });
    }

    /// Everything in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string cannot fail");
        page
    }

    fn add<F: Fn() -> Vec<Sample> + Send + Sync + 'static>(&mut self, family: Family<F>) {
        self.registry.register_collector(Box::new(family));
    }
}

struct Family<F> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: F,
}

impl<F> fmt::Debug for Family<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F: Fn() -> Vec<Sample> + Send + Sync + 'static> Collector for Family<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for Sample { labels, value } in (self.read)() {
            if labels.is_empty() {
                encode_value(&mut metric, self.kind, value)?;
            } else {
                encode_value(&mut metric.encode_family(&labels)?, self.kind, value)?;
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: MetricType, value: Number) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, Number::Count(count)) => {
            metric.encode_counter::<NoLabelSet, _, f64>(&count, None)
        }
        (MetricType::Counter, Number::Real(value)) => {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        }
        (_, Number::Count(count)) => metric.encode_gauge(&count),
        (_, Number::Real(value)) => metric.encode_gauge(&value),
    }
}

/// The answer to `GET /health`.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// Whether the daemon can do its work; otherwise the answer has the HTTP status 503.
    pub healthy: bool,
    /// What it knows about itself.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// Reads a daemon's health; called at each request.
pub type ReadHealth = Arc<dyn Fn() -> Health + Send + Sync>;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is taken or not of this machine: the administrator chooses another.
    #[error("cannot serve metrics on {address}")]
    Listen {
        /// The address in the configuration.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Serves metrics and health over HTTP until it is stopped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// Listens on `address` and serves until `stop` is cancelled.
    pub async fn start(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        health: ReadHealth,
        stop: CancellationToken,
    ) -> Result<Self, MetricsError> {
        let cannot = |source| MetricsError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let router = Router::new()
            .route("/metrics", get(serve_metrics).with_state(metrics))
            .route("/health", get(serve_health).with_state(health));
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router);
            // Scrapes are short: those that run when the daemon stops are cut off.
            tokio::select! {
                () = stop.cancelled() => {}
                ended = served => if let Err(error) = ended {
                    tracing::error!(%error, "metrics_server_failed");
                },
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens; tells the port when the configuration left it to the system.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server has ended after `stop` was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "metrics_server_failed");
        }
    }
}

async fn serve_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], metrics.render())
}

async fn serve_health(State(health): State<ReadHealth>) -> impl IntoResponse {
    let health = health();
    let status = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = serde_json::to_string(&health).expect("a map with text keys has a JSON form");
    (status, [(header::CONTENT_TYPE, "application/json")], text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn sample() -> (Metrics, Arc<AtomicU64>) {
        let hits = Arc::new(AtomicU64::new(1523));
        let read = hits.clone();
        let mut metrics = Metrics::new();
        metrics.gauge("globalfs_site_status", "1 while the site answers.", || {
            vec![Sample::new(1.0).label("site", "onprem").label("role", "primary")]
        });
        metrics.counter("globalfs_cache_hits", "Chunks found in the cache.", move || {
            vec![Sample::count(read.load(Ordering::Relaxed)).label("site", "cloud")]
        });
        metrics.counter("globalfs_lease_grants_total", "Leases granted.", || {
            vec![Sample::count(5234).label("type", "read")]
        });
        metrics.gauge("globalfs_replication_jobs_active", "Jobs that run.", || vec![Sample::count(3)]);
        metrics.counter("globalfs_replication_bytes_transferred", "Bytes moved.", || {
            vec![Sample::count(10_737_418_240).label("src", "on\"prem").label("dst", "cloud")]
        });
        (metrics, hits)
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn names_are_exactly_those_of_the_design() {
        let (metrics, hits) = sample();
        let page = metrics.render();
        for line in [
            r#"globalfs_site_status{site="onprem",role="primary"} 1.0"#,
            r#"globalfs_cache_hits{site="cloud"} 1523"#,
            r#"globalfs_lease_grants_total{type="read"} 5234"#,
            "globalfs_replication_jobs_active 3",
            r#"globalfs_replication_bytes_transferred{src="on\"prem",dst="cloud"} 10737418240"#,
            "# TYPE globalfs_lease_grants counter",
            "# TYPE globalfs_cache_hits unknown",
            "# HELP globalfs_cache_hits Chunks found in the cache.",
        ] {
            assert!(page.lines().any(|l| l == line), "no line `{line}` in:\n{page}");
        }
        hits.store(1524, Ordering::Relaxed);
        assert!(metrics.render().contains("} 1524"));
    }

    #[tokio::test]
    async fn serves_until_stopped() {
        let stop = CancellationToken::new();
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let read = healthy.clone();
        let health: ReadHealth = Arc::new(move || Health {
            healthy: read.load(Ordering::Relaxed),
            details: [("origin".to_owned(), "reachable".into())].into_iter().collect(),
        });
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let metrics = Arc::new(sample().0);
        let server = MetricsServer::start(any, metrics.clone(), health.clone(), stop.clone()).await.unwrap();
        let address = server.address();

        let page = get(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("globalfs_cache_hits{"), "{page}");
        assert!(page.contains("application/openmetrics-text") && page.ends_with("# EOF\n"), "{page}");
        let answer = get(address, "/health").await;
        assert!(answer.ends_with(r#"{"healthy":true,"origin":"reachable"}"#), "{answer}");
        healthy.store(false, Ordering::Relaxed);
        assert!(get(address, "/health").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        let taken = MetricsServer::start(address, metrics, health, stop.clone()).await.unwrap_err();
        assert_eq!(taken.to_string(), format!("cannot serve metrics on {address}"));
        stop.cancel();
        server.stopped().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
