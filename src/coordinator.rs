//! The coordinator's program: configuration in, a control plane with metrics out.

use crate::config::{self, CoordinatorConfig};
use crate::telemetry::metrics::{Health, Metrics, MetricsServer, Sample};
use anyhow::{Context, Result};
use arc_swap::ArcSwapOption;
use globalfs_controlplane::model::record::{SiteRole, SiteStatus};
use globalfs_controlplane::service::{Coordinator, DeclaredSite, Observer, Options, Status, Timing};
use globalfs_controlplane::store::{EtcdConfig, StoreConfig};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How old the status may be that metrics are made of.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Runs a coordinator until `stop`.
pub async fn run(config: CoordinatorConfig, stop: CancellationToken) -> Result<()> {
    let coordinator = Coordinator::open(options(&config)?).await?;
    let seen = Arc::new(ArcSwapOption::empty());
    let watching = tokio::spawn(watch(coordinator.observer(), seen.clone(), stop.clone()));
    let server = match config.metrics {
        Some(address) => {
            let metrics = Arc::new(metrics(coordinator.observer(), seen.clone()));
            let health = Arc::new(move || health(&seen));
            Some(MetricsServer::start(address, metrics, health, stop.clone()).await?)
        }
        None => None,
    };
    tracing::info!(
        cluster = config.cluster,
        listen = %coordinator.local_addr(),
        admin = %coordinator.admin_dir().display(),
        "coordinator_started"
    );
    let served = coordinator.run(stop.clone()).await;
    stop.cancel();
    watching.await?;
    if let Some(server) = server {
        server.stopped().await;
    }
    served?;
    tracing::info!("coordinator_stopped");
    Ok(())
}

fn options(config: &CoordinatorConfig) -> Result<Options> {
    for idle in config.policies.idle_keys() {
        tracing::warn!(policy = idle.policy, reason = idle.reason, "policy_key_without_effect");
    }
    let declared = |site: &config::SiteEntry| DeclaredSite { name: site.name.clone(), role: site.role };
    Ok(Options {
        cluster: config.cluster.clone(),
        listen: config.listen,
        data_dir: config.data_dir.clone(),
        store: store(&config.store, &config.data_dir)?,
        sites: config.sites.iter().map(declared).collect(),
        default_primary: config.primary().clone(),
        policies: config.policies.policies().to_vec(),
        timing: Timing::default(),
    })
}

fn store(config: &config::StoreConfig, data_dir: &Path) -> Result<StoreConfig> {
    let etcd = match config {
        config::StoreConfig::Embedded => return Ok(StoreConfig::Embedded { dir: data_dir.join("store") }),
        config::StoreConfig::Etcd(etcd) => etcd,
    };
    let password = etcd.login.as_ref().map(|login| first_line(&login.password_file)).transpose()?;
    Ok(StoreConfig::Etcd(EtcdConfig {
        endpoints: etcd.endpoints.clone(),
        ca: etcd.ca.clone(),
        cert: etcd.identity.as_ref().map(|identity| identity.cert.clone()),
        key: etcd.identity.as_ref().map(|identity| identity.key.clone()),
        user: etcd.login.as_ref().map(|login| login.user.clone()),
        password,
    }))
}

fn first_line(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Keeps the last status, since metrics are read without waiting.
async fn watch(observer: Observer, seen: Arc<ArcSwapOption<Status>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STATUS_EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // An error empties it: /health says so, and the store logs why.
        seen.store(observer.status().await.ok().map(Arc::new));
    }
}

fn health(seen: &ArcSwapOption<Status>) -> Health {
    let status = seen.load();
    let mut details = serde_json::Map::new();
    details.insert("store_reachable".into(), status.is_some().into());
    details.insert("sites".into(), status.as_ref().map_or(0, |s| s.view.sites.len()).into());
    Health { healthy: status.is_some(), details }
}

fn metrics(observer: Observer, seen: Arc<ArcSwapOption<Status>>) -> Metrics {
    let mut metrics = Metrics::new();
    metrics.gauge("globalfs_site_status", "1 while a site's heartbeats arrive", move || {
        let status = seen.load();
        let sites = status.iter().flat_map(|status| &status.view.sites);
        let sample = |site: &globalfs_controlplane::model::record::SiteRecord| {
            let active = site.status == SiteStatus::Active;
            Sample::count(active.into()).label("site", &site.name).label("role", role_text(site.role))
        };
        sites.map(sample).collect()
    });
    let mut count = |name, help, read: fn(&Observer) -> u64| {
        let observer = observer.clone();
        metrics.counter(name, help, move || vec![Sample::count(read(&observer))]);
    };
    count("globalfs_control_requests_total", "Requests that arrived", |o| o.counters().requests);
    count("globalfs_control_errors_total", "Requests that failed", |o| o.counters().errors);
    count("globalfs_control_refusals_total", "Requests refused for who asked", |o| o.counters().refusals);
    count("globalfs_control_joins_total", "Certificates issued", |o| o.counters().joins);
    count("globalfs_control_heartbeats_total", "Heartbeats of sites", |o| o.counters().heartbeats);
    metrics
}

/// A role as configuration and metrics write it.
pub fn role_text(role: SiteRole) -> &'static str {
    match role {
        SiteRole::Primary => "primary",
        SiteRole::Burst => "burst",
        SiteRole::Backup => "backup",
    }
}
